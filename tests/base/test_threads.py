"""Threads: what is repeated, and the watchdog."""

import sys
import threading

import pytest

from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.threads import repeating


def test_what_is_repeated_goes_on_after_an_error(caplog):
    """The server's heartbeat once ended silently with the first error of the store."""
    calls, enough = [], threading.Event()

    def call():
        calls.append(len(calls))
        if len(calls) == 5:
            enough.set()
        if len(calls) < 4:
            raise PeerError("the store is away")

    with repeating(0.01, call):
        assert enough.wait(10)
    assert caplog.messages == ["the store is away; trying again every 0.01 s"]


@pytest.mark.parametrize(
    "stderr", ["os.close(reading)", "os.write(2, bytes(1 << 16))"], ids=["closed", "full"]
)
def test_the_watchdog_ends_a_process_whose_stderr_nobody_reads(processes, stderr):
    """As when torchrun, which read it, was killed; seen as a device that stayed for ever."""
    program = (
        "import os, time; from pipar_rpc.base.threads import watchdog\n"
        f"reading, writing = os.pipe(); os.dup2(writing, 2); os.close(writing); {stderr}\n"
        "with watchdog(0.2, 'too long', exit_code=7): time.sleep(60)"
    )
    run = processes.start([sys.executable, "-c", program])
    assert run.wait(timeout=30) == 7
