"""A training on the machines: `run` and `logs`."""

import shlex
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from types import FrameType

from launch.machines import plan
from launch.machines.deploy import STOP_S, refuse_unless
from launch.machines.follow import WHY, following
from launch.machines.remote import MachineError, on_all, run
from launch.machines.schema import Inventory, Machine
from pipar_rpc.base.errors import UserError

END_S = 30.0  # in which the other machines end by themselves after the server


def train(inventory: Inventory, arguments: list[str]) -> int:
    """Starts the ranks on all machines, shows what they say, and ends them all when the server has ended.

    Ctrl-C and SIGTERM end all ranks for good. When this process is killed, the training goes on.

    Returns:
        The exit code: 0 when the training is done, 1 when it has failed.
    """
    plan.check_training(inventory, arguments)
    refuse_unless(inventory, idle=True, mark=plan.mark_of(inventory))
    with _terminated_as_interrupted():
        try:
            on_all(inventory, lambda machine: _start(inventory, machine, arguments))
            return _followed(inventory)
        finally:
            _stop(inventory)


def logs(inventory: Inventory) -> int:
    """Shows what the ranks say, from the beginning, until the server's have ended; returns as `train`."""
    refuse_unless(inventory, idle=False, mark=plan.mark_of(inventory))
    return _followed(inventory)


def _start(inventory: Inventory, machine: Machine, arguments: list[str]) -> None:
    words = f"{shlex.join(arguments)}\n".encode()
    keep = f"umask 077 && mkdir -p {machine.state} && cat >{machine.state}/arguments"
    run(machine, inventory.ssh, "start", f"{keep} && sh {machine.plan}/start.sh", words)


def _followed(inventory: Inventory) -> int:
    """1 if the server's ranks have failed, else 0, for which the others get a little time to end as well."""
    with following(inventory) as codes:
        code = codes[0].result()
        wait(codes[1:], END_S if code == 0 else 0.0)
    if code in WHY:
        raise MachineError(inventory.server, "run", WHY[code])
    return min(code, 1)


def _stop(inventory: Inventory) -> None:
    """Ends the ranks everywhere; cannot be interrupted, for something would be left behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
    limit = inventory.ssh.timeout_s + STOP_S
    try:
        print("ending the ranks of all machines", flush=True)
        on_all(
            inventory,
            lambda machine: run(
                machine, inventory.ssh, "end the ranks", f"sh {machine.plan}/stop.sh", timeout_s=limit
            ),
        )
    except UserError as error:
        print(f"some ranks may still run: {error}; `down` tries again", file=sys.stderr)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
