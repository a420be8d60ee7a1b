"""The output of all machines' ranks on one terminal, each line with its machine's name."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from launch.machines.remote import LOST, command
from launch.machines.schema import Inventory, Machine
from pipar_rpc.base.threads import open_pool

STOPPED = 143  # follow.sh: stop.sh has ended the ranks
GONE = 254  # follow.sh: the ranks have not ended, and run no more
WHY = {LOST: "this machine cannot be reached", GONE: "its ranks do not run"}
PATIENCE_S = 600.0  # in which a machine that is lost, like one that reboots, must come back
CONNECTED_S = 30.0  # a failed try takes less
AGAIN_S = 3.0
# Torch's own lines, such as that a host has no name, and why it cannot connect, while it waits for others.
OF_TORCH = re.compile(rb"\[?[IWEF]\d{4} |Exception raised from |frame #\d|\s*$")
ERROR = "pipar_rpc: error: "  # before the reason why it ends
# Torchrun's, which starts the ranks again; pipar_rpc ends with 2 when the user must mend something.
REFUSED = re.compile(rb"E.* failed \(exitcode: 2\) ")


class Follower:
    """Prints what a machine's ranks say until they have ended; goes on after a lost connection.

    Attributes:
        last: the last line of the ranks but torch's own.
        error: the last reason that they gave for their end.
        refusal: the last one that nothing but the user can mend.
        code: what `run` returns, once it has.
    """

    def __init__(self, inventory: Inventory, machine: Machine, width: int, lock: threading.Lock) -> None:
        self.machine = machine
        self._ssh, self._width, self._lock = inventory.ssh, width, lock
        self._lines = 0
        self.last, self.error, self.refusal = "", "", ""
        self.code: Future[int] = Future()
        self._left = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Returns torchrun's exit code, or STOPPED; LOST or GONE if machine or ranks have not come back."""
        code, since = LOST, None
        while not self._left.is_set():
            began = time.monotonic()
            code = self._once()
            if code not in WHY or self._left.is_set():
                break
            if since is None or time.monotonic() - began > CONNECTED_S:
                since = time.monotonic()
                self._say(f"-- {WHY[code]}; waiting {PATIENCE_S:.0f} s for it to come back")
            if time.monotonic() - since > PATIENCE_S:
                self._say(f"-- {WHY[code]} for {PATIENCE_S:.0f} s")
                break
            self._left.wait(AGAIN_S)
        if code not in {0, *WHY} and not self._left.is_set():
            ended = f"torchrun has ended with {code}"
            self._say(f"-- {'its ranks were stopped' if code == STOPPED else ended}")
        return code

    @property
    def has_spoken(self) -> bool:
        """Whether anything has come from the ranks but torch's own lines."""
        return bool(self.last)

    def _once(self) -> int:
        script = f"sh {self.machine.plan}/follow.sh {self._lines + 1}"
        process = subprocess.Popen(
            command(self.machine, self._ssh, script),
            stdin=subprocess.PIPE,  # open for as long as somebody reads, which is how the machine knows
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._process = process
        if self._left.is_set():
            _kill(process)
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                self._lines += 1
                said = line.decode(errors="replace").rstrip("\n")
                self._say(said)
                if not OF_TORCH.match(line):
                    self.last = said
                if said.startswith(ERROR):
                    self.error = said.removeprefix(ERROR)
                if REFUSED.match(line):
                    self.refusal = self.error
        return process.returncode

    def _say(self, line: str) -> None:
        with self._lock:
            print(f"{self.machine.name:{self._width}} | {line}", flush=True)

    def leave(self) -> None:
        """Ends it from another thread."""
        self._left.set()
        process = self._process
        if process is not None and process.poll() is None:
            _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process that is the first of its session, and whoever else is in it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def following(inventory: Inventory) -> Iterator[list[Follower]]:
    """Follows all machines; yields the followers with their futures, and leaves those that are not done."""
    width, lock = max(len(machine.name) for machine in inventory.machines), threading.Lock()
    followers = [Follower(inventory, machine, width, lock) for machine in inventory.machines]
    with open_pool("followers", len(followers)) as pool:
        try:
            for follower in followers:
                follower.code = pool.submit(follower.run)
            yield followers
        finally:
            for follower in followers:
                follower.leave()
            sys.stdout.flush()
