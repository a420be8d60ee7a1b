"""Brings the plan to the machines and takes it away again: `up` and `down`; what both rest on."""

import io
import shlex
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from launch.machines import plan
from launch.machines.remote import MachineError, on_all, run
from launch.machines.schema import Inventory, Machine
from pipar_rpc.base.errors import UserError

PLANS, STATES = (plan.ID,), ("arguments", "log")  # files that tell that a plan/, or a state/, is ours
ANSWER_S = 30.0  # in which the server must answer through the VPN
STOP_S = 45.0  # what ending the ranks may take beside all else
MARK, LOG = "pipar-mark:", "pipar-log:"  # before what is ours: a login shell may print too
BUSY = "a training runs there; `logs` follows it, `stop` ends it"


def source(name: str) -> bytes:
    """A script that a machine's Python gets from us."""
    return (plan.ON_MACHINE / name).read_bytes()


def running(inventory: Inventory, machine: Machine) -> tuple[str, bool]:
    """The mark of the plan that a machine has ("" if it has none), and whether its ranks run."""
    has = shlex.quote(f"{machine.plan}/{plan.ID}")
    status = (
        f"if [ -e {has} ]; then echo {MARK}$(cat {has}); sh {machine.plan}/status.sh && echo {MARK}; fi; true"
    )
    printed = run(machine, inventory.ssh, "status", status).splitlines()
    marks = [line.removeprefix(MARK) for line in printed if line.startswith(MARK)]
    return (marks[0] if marks else "", "" in marks)


def refuse_unless(
    inventory: Inventory, idle: bool, mark: str | None = None, machines: Sequence[Machine] = ()
) -> None:
    """Raises MachineError unless machines are as a command needs them.

    Args:
        idle: whether no training may run.
        mark: mark of the plan that they must have; None: any, or none.
        machines: machines that are looked at; by default all.
    """
    machines = machines or inventory.machines
    states = on_all(machines, lambda machine: running(inventory, machine))
    for machine, (theirs, runs) in zip(machines, states, strict=True):
        if mark not in {None, theirs}:
            raise MachineError(machine, "status", "it has another plan, or none: `up` first")
        if runs and idle:
            raise MachineError(machine, "status", BUSY)


def copy(inventory: Inventory, machine: Machine) -> None:
    """Copies a machine's own part of the plan to it, and nobody else's; ends the VPN of one that differs.

    Raises:
        MachineError: it could not be copied, or something else lies in its place.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted((inventory.plan / machine.name).iterdir()):
            archive.add(path, path.name, filter=_of_whoever_unpacks)
    new = f"{machine.plan}.new"
    make = f"umask 077 && mkdir -p {machine.folder} && rm -rf {new} && mkdir {new} && tar -xpf - -C {new}"
    differs = f"[ -e {machine.plan}/settings.sh ] && ! cmp -s {machine.plan}/settings.sh {new}/settings.sh"
    leave = f"if {differs}; then sh {machine.plan}/down.sh; fi"
    swap = f"rm -rf {machine.plan} && mv {new} {machine.plan}"
    script = f"{_refuse_strangers(machine)}; {make} && {leave} && {swap}"
    run(machine, inventory.ssh, "copy the plan", script, packed.getvalue())


def _refuse_strangers(machine: Machine) -> str:
    """The line of shell that ends where folders of the user's are in the place of ours."""
    tests = []
    for folder, ours in ((machine.plan, PLANS), (machine.state, STATES)):
        wrong = f"echo '{folder}: lies there and is not ours: give this machine another folder' >&2"
        full = f'[ -n "$(ls -A {folder} 2>/dev/null)" ]'
        tests.append(f"if {full} && ! {_is_ours(folder, ours)}; then {wrong}; exit 1; fi")
    return "; ".join(tests)


def _of_whoever_unpacks(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def reach(inventory: Inventory, machine: Machine) -> None:
    """Waits until the server answers a machine through the VPN."""
    server, vpn = inventory.server, inventory.vpn
    script = f"{machine.python} - reach {server.vpn_address} {inventory.store_port} {ANSWER_S:.0f}"
    try:
        run(machine, inventory.ssh, "VPN", script, source("link.py"), ANSWER_S + inventory.ssh.timeout_s)
    except MachineError as error:
        if "not answer" not in str(error):
            raise
        hint = f"is UDP port {vpn.port} of {vpn.endpoint or server.address} open to it?"
        raise UserError(f"{error}; {hint}") from error


def up(inventory: Inventory) -> None:
    """Copies the plan to all machines and brings the VPN up."""
    plan.mark_of(inventory)
    refuse_unless(inventory, idle=True)
    on_all(inventory.machines, lambda machine: copy(inventory, machine))
    on_all(inventory.machines, lambda machine: run(machine, inventory.ssh, "up", f"sh {machine.plan}/up.sh"))
    on_all(inventory.machines, lambda machine: reach(inventory, machine))
    print(f"{len(inventory.machines)} machines are up, encrypted and closed to others")


def down(inventory: Inventory) -> None:
    """Ends what runs, fetches the logs, closes the VPN and removes the plan from all machines."""
    folder = inventory.logs / time.strftime("%Y-%m-%d_%H-%M-%S")
    try:
        inventory.logs.mkdir(exist_ok=True)  # before anything ends
    except OSError as error:
        raise UserError(f"{inventory.logs}: cannot be written: {error.strerror}") from error
    fetched = [
        path
        for path in on_all(inventory.machines, lambda machine: _leave(inventory, machine, folder))
        if path
    ]
    if not fetched and not any(inventory.logs.iterdir()):
        inventory.logs.rmdir()
    where = f"; their logs are in {folder}" if fetched else ""
    print(f"{len(inventory.machines)} machines are down{where}")


def _leave(inventory: Inventory, machine: Machine, folder: Path) -> Path | None:
    ssh, state = inventory.ssh, machine.state
    end_ranks(inventory, machine)
    read = f"echo; echo {LOG}; cat {state}/log.previous {state}/log 2>/dev/null; true"
    printed = run(machine, ssh, "fetch the log", read, timeout_s=3 * ssh.timeout_s)
    log = printed.partition(f"\n{LOG}\n")[2]
    path = folder / f"{machine.name}.log"
    if log:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(log)
    run(machine, ssh, "down", if_there(f"{machine.plan}/down.sh"), timeout_s=ssh.timeout_s + STOP_S)
    run(machine, ssh, "clean up", f"{_removal_of(state, STATES)}; {removal(machine)}")
    return path if log else None


def end_ranks(inventory: Inventory, machine: Machine) -> bool:
    """Ends a machine's ranks for good, and waits until they are gone; returns whether it has a plan."""
    limit, stop = inventory.ssh.timeout_s + STOP_S, f"{machine.plan}/stop.sh"
    script = f"if [ -e {stop} ]; then sh {stop} && echo {MARK}; fi"
    return MARK in run(machine, inventory.ssh, "end the ranks", script, timeout_s=limit).splitlines()


def removal(machine: Machine) -> str:
    """The line of shell that removes the plan from a machine; results, and what is the user's, stay."""
    ours = _removal_of(machine.plan, PLANS)
    return f"{ours}; rm -rf {machine.plan}.new; rmdir {machine.folder} 2>/dev/null; true"


def _removal_of(folder: str, ours: tuple[str, ...]) -> str:
    return f"if {_is_ours(folder, ours)}; then rm -rf {folder}; fi"


def _is_ours(folder: str, ours: tuple[str, ...]) -> str:
    """The shell's test whether a folder holds one of the files that tell so."""
    return f"{{ {' || '.join(f'[ -e {folder}/{name} ]' for name in ours)}; }}"


def if_there(script: str, *words: str) -> str:
    """The line of shell that runs a script of the plan, if a machine has it."""
    return f"if [ -e {script} ]; then {shlex.join(['sh', script, *words])}; fi"
