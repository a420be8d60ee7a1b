"""Commands on the machines: plain OpenSSH, each with a deadline and an error that names machine and step."""

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from launch.machines.schema import Machine, Ssh
from pipar_rpc.base.errors import UserError
from pipar_rpc.base.threads import open_pool

T = TypeVar("T")

LOST = 255  # what ssh ends with when it is ssh that failed
ALIVE_S, MISSED = 5, 4  # a machine that is silent for 20 s is lost
LAST_LINES = 3


class MachineError(UserError):
    """What a machine could not do, and in which step."""

    def __init__(self, machine: Machine, step: str, what: str) -> None:
        super().__init__(f"{machine.name}: {step}: {what}")


def command(machine: Machine, ssh: Ssh, script: str) -> list[str]:
    """The command that runs a line of shell on a machine; host keys are checked, nothing is asked."""
    if machine.local:
        return ["sh", "-c", script]
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"ConnectTimeout={min(15, int(ssh.timeout_s))}"]
    options += [f"ServerAliveInterval={ALIVE_S}", f"ServerAliveCountMax={MISSED}"]
    if ssh.known_hosts:
        options.append(f"UserKnownHostsFile={Path(ssh.known_hosts).expanduser().absolute()}")
    if ssh.identity:
        options += [f"IdentityFile={Path(ssh.identity).expanduser().absolute()}", "IdentitiesOnly=yes"]
    words = [word for option in options for word in ("-o", option)]
    return ["ssh", *words, "-p", str(machine.ssh_port), f"{machine.user}@{machine.address}", script]


def run(
    machine: Machine, ssh: Ssh, step: str, script: str, given: bytes = b"", timeout_s: float | None = None
) -> str:
    """Runs a line of shell on a machine; returns what it printed.

    Args:
        step: what is being done, for errors.
        given: standard input.
        timeout_s: longest time that it may take; None: that of the inventory.

    Raises:
        MachineError: the machine cannot be reached, has not done in time, or the command failed.
    """
    limit = timeout_s or ssh.timeout_s
    try:
        done = subprocess.run(
            command(machine, ssh, script),
            input=given,
            capture_output=True,
            timeout=limit,
            check=False,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
    except subprocess.TimeoutExpired:
        raise MachineError(machine, step, f"not done after {limit:.0f} s") from None
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is needed (Debian: apt-get install openssh-client)") from error
    if done.returncode:
        raise MachineError(machine, step, _reason(machine, done))
    return done.stdout.decode(errors="replace")


def _reason(machine: Machine, done: "subprocess.CompletedProcess[bytes]") -> str:
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    last = "; ".join(line.strip() for line in said[-LAST_LINES:]) or f"ended with {done.returncode}"
    if done.returncode != LOST or machine.local:
        return last
    hint = ""
    if any("Host key verification failed" in line for line in said):
        keyscan = f"ssh-keyscan -p {machine.ssh_port} {machine.address}"
        hint = f"; compare its key with what `{keyscan}` prints, and add that to known_hosts"
    return f"{machine.user}@{machine.address}, port {machine.ssh_port}, cannot be reached: {last}{hint}"


def on_all(machines: Sequence[Machine], work: Callable[[Machine], T]) -> list[T]:
    """Does the same for all machines at once; waits for all, and raises one error with what failed."""
    with open_pool("machines", len(machines)) as pool:
        waiting = [pool.submit(work, machine) for machine in machines]
        return _all_of(waiting)


def _all_of(waiting: Sequence["Future[T]"]) -> list[T]:
    errors = [error for future in waiting if (error := future.exception()) is not None]
    others = [error for error in errors if not isinstance(error, UserError)]
    if others:
        raise others[0]
    if errors:
        raise UserError("; ".join(map(str, errors)))
    return [future.result() for future in waiting]


@contextmanager
def terminated_as_interrupted(*more: signal.Signals) -> Iterator[None]:
    """Treats SIGTERM, and further signals, as Ctrl-C within the block, so that nothing is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with answering(interrupt, signal.SIGTERM, *more):
        yield


@contextmanager
def answering(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, *numbers: signal.Signals
) -> Iterator[None]:
    """Has signals answered by a handler within the block."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
