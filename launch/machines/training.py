"""A training on the machines: `run`, `logs` and `stop`."""

import shlex
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from typing import TextIO

from launch.machines import plan
from launch.machines.deploy import BUSY, end_ranks, refuse_unless, running
from launch.machines.follow import STOPPED, WHY, Follower, following
from launch.machines.remote import MachineError, answering, on_all, run, terminated_as_interrupted
from launch.machines.schema import Inventory, Machine
from pipar_rpc.base.errors import UserError

LOOK_S = 1.0  # between two looks whether the training can go on
END_S = 30.0  # in which the other machines end by themselves after the server


def train(inventory: Inventory, arguments: list[str]) -> int:
    """Starts the ranks on all machines, shows what they say, and ends them all when the server has ended.

    Ctrl-C and SIGTERM end all ranks for good. When this process is killed, the training goes on.

    Returns:
        The exit code: 0 when the training is done, 1 when it has failed.
    """
    plan.check_training(inventory, arguments)
    refuse_unless(inventory, idle=True, mark=plan.mark_of(inventory))
    with terminated_as_interrupted():
        try:
            start(inventory, inventory.server, arguments)  # first: of two `run` at once one is refused here
        except BaseException as error:
            if BUSY not in str(error):  # otherwise what runs is another's
                _end(inventory)
            raise
        try:
            on_all(inventory.machines[1:], lambda machine: start(inventory, machine, arguments))
            return _followed(inventory, afresh=True)
        finally:
            _end(inventory)


def logs(inventory: Inventory) -> int:
    """Shows what the ranks say, from the beginning, until the server's have ended; returns as `train`."""
    mark = plan.mark_of(inventory)
    server = inventory.server
    refuse_unless(inventory, idle=False, mark=mark, machines=[server])  # the others may come back
    nothing = "echo 'nothing has been run yet' >&2; exit 1"
    run(server, inventory.ssh, "logs", f"[ -e {server.state}/log ] || {{ {nothing}; }}")
    code = _followed(inventory, afresh=False)
    devices = inventory.machines[1:]
    run_on = on_all(devices, lambda machine: _runs(inventory, machine))
    if left := [machine.name for machine, runs in zip(devices, run_on, strict=True) if runs]:
        print(f"ranks still run on {', '.join(left)}, and wait for the server: `stop` ends them")
    return code


def stop(inventory: Inventory) -> None:
    """Ends the ranks of all machines for good, though their `run` is lost; plan, VPN and logs stay."""
    planned = on_all(inventory.machines, lambda machine: end_ranks(inventory, machine))
    print(f"no ranks run on {sum(planned)} machines")
    if other := [machine.name for machine, has in zip(inventory.machines, planned, strict=True) if not has]:
        print(f"nothing was ended on {', '.join(other)}: no plan is in its folder")


def start(inventory: Inventory, machine: Machine, arguments: list[str]) -> None:
    """Starts a machine's ranks with settings of pipar_rpc; raises MachineError if they run already."""
    words = f"{shlex.join(arguments)}\n".encode()
    alone = f"exec 9>{machine.state}/lock && flock -n 9 && ! sh {machine.plan}/status.sh"  # loop.sh keeps it
    refuse = f"{alone} || {{ echo {shlex.quote(BUSY)} >&2; exit 1; }}"
    keep = f"umask 077 && mkdir -p {machine.state} && {{ {refuse}; }} && cat >{machine.state}/arguments"
    run(machine, inventory.ssh, "start", f"{keep} && sh {machine.plan}/start.sh", words)


def _followed(inventory: Inventory, afresh: bool) -> int:
    """1 if the server's ranks have failed, else 0, for which the others get a little time to end as well."""
    with following(inventory) as followers:
        ended = followers[0].code
        while not ended.done():
            waiting = [follower.code for follower in followers if not follower.code.done()]
            wait(waiting, LOOK_S, FIRST_COMPLETED)
            if not ended.done():
                _check(followers, afresh)
        code = ended.result()
        wait([follower.code for follower in followers[1:]], END_S if code == 0 else 0.0)
    if code in WHY:
        raise MachineError(inventory.server, "run", WHY[code])
    if code:  # devices have had more to say since, and none of it is the cause
        reason = followers[0].error or "its lines above say why"
        stopped = "the training was stopped"
        _tell(stopped if code == STOPPED else f"the training has failed: server: {reason}", sys.stderr)
    return min(code, 1)


def _tell(line: str, file: TextIO) -> None:
    """Prints a line if anybody still reads: Ctrl-C ends a `tee` too, and what is to follow must be done."""
    with suppress(BrokenPipeError):
        print(line, file=file, flush=True)


def _runs(inventory: Inventory, machine: Machine) -> bool:
    with suppress(UserError):  # whatever runs on a machine that cannot be reached
        return running(inventory, machine)[1]
    return False


def _check(followers: Sequence[Follower], afresh: bool) -> None:
    """Raises MachineError if the training cannot begin, or the server cannot go on with it.

    Args:
        followers: the server's, and those of the devices.
        afresh: whether all that the ranks say belongs to this training; a longer log may hold an old refusal.
    """
    server, *devices = followers
    needed = [] if server.has_spoken else devices  # until then the server's ranks wait for the others
    for follower in [server, *needed]:
        if follower.refusal and afresh:
            raise MachineError(follower.machine, "run", follower.refusal)
    for follower in needed:
        if follower.code.done():
            code, last = follower.code.result(), follower.error or follower.last
            ended = f"torchrun has ended with {code}{last and ': '}{last}"
            raise MachineError(follower.machine, "run", WHY.get(code, ended))


def _end(inventory: Inventory) -> None:
    """Ends the ranks everywhere; cannot be interrupted, for something would be left behind."""
    with answering(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):
        _tell("ending the ranks of all machines", sys.stdout)
        try:
            on_all(inventory.machines, lambda machine: end_ranks(inventory, machine))
        except UserError as error:
            _tell(f"some ranks may still run: {error}; `stop` tries again", sys.stderr)
