"""A function in a process of its own: its result, its errors, and no waiting without end."""

import os
import sys
import threading
import time

import psutil
import pytest

from pipar_rpc.base.errors import PeerError, UserError
from pipar_rpc.base.fresh_process import run_in_process
from pipar_rpc.base.threads import open_pool
from tests.support.processes import survivors, wait_until


def variable(name):
    return os.environ.get(name), os.getpid()


def refuse():
    raise UserError("mend this")


def fail():
    raise KeyError("broken")


def die():
    os._exit(3)


def run(function, *args, timeout_s=60.0):
    return run_in_process(function, *args, environment={"PIPAR_TEST": "seen"}, timeout_s=timeout_s)


def test_the_environment_is_that_of_the_new_process_alone():
    value, pid = run(variable, "PIPAR_TEST")
    assert value == "seen"
    assert pid != os.getpid()
    assert "PIPAR_TEST" not in os.environ


def test_the_environment_of_this_process_stays_as_it_is_for_all_its_threads():
    """It was once emptied and filled again."""
    before, seen, done = dict(os.environ), [], threading.Event()

    def watch():
        while not done.is_set():
            if (now := dict(os.environ.copy())) != before:
                seen.append(now)

    with open_pool("watch") as pool:
        watching = pool.submit(watch)
        run(os.getpid)
        done.set()
        watching.result(10)
    assert not seen


def test_it_ends_with_the_process_that_waits_for_it(processes):
    program = (
        "import time; from pipar_rpc.base.fresh_process import run_in_process\n"
        "run_in_process(time.sleep, 600, environment={}, timeout_s=600)"
    )
    parent = processes.start([sys.executable, "-c", program])
    children = wait_until(psutil.Process(parent.pid).children)
    parent.kill()
    assert not survivors(children, timeout=20)


@pytest.mark.parametrize(
    ("function", "error", "line"),
    [
        (refuse, UserError, "refuse in a process of its own: mend this"),
        (fail, PeerError, "fail in a process of its own failed: KeyError: 'broken'"),
        (die, PeerError, "die in a process of its own ended with exit code 3"),
    ],
)
def test_errors_come_back(function, error, line):
    with pytest.raises(error) as raised:
        run(function)
    assert str(raised.value).startswith(line)


def test_a_process_that_does_not_answer_is_killed():
    with pytest.raises(PeerError, match="waited 1 s for sleep in a process of its own"):
        run(time.sleep, 600, timeout_s=1.0)
    assert not [
        child for child in psutil.Process().children() if "fresh_process" in " ".join(child.cmdline())
    ]
