"""Writes the plan: for each machine a folder with all that it runs, which can also be used by hand."""

import os
import shlex
import shutil
import uuid
from ipaddress import IPv4Network
from pathlib import Path

from launch.machines import by_hand, wireguard
from launch.machines.inventory import node_words
from launch.machines.keys import new_pair
from launch.machines.schema import Inventory, Machine
from pipar_rpc import command_line, hydra_compose
from pipar_rpc.base.errors import UserError
from pipar_rpc.plan.load import for_device, load

ON_MACHINE = Path(__file__).parent / "on_machine"
REQUIREMENTS = Path(__file__).parents[1] / "device-requirements.txt"
FOR_US = {"probe.py", "link.py"}  # given to the machine's Python when they are needed
SECRET, PLAIN, FOLDER = 0o600, 0o644, 0o700
ID, COPY = "id", "machines.yaml"


def write(inventory: Inventory) -> Path:
    """Writes the plan beside the inventory, with fresh keys; replaces an older one when it is whole.

    Raises:
        UserError: settings of devices that pipar_rpc refuses, nothing to make keys with, or no place for it.
    """
    check_training(inventory, [])
    try:
        return _write(inventory)
    except OSError as error:
        raise UserError(f"{inventory.plan}: cannot be written: {error.strerror}") from error


def _write(inventory: Inventory) -> Path:
    new, old = (inventory.plan.with_name(f"{inventory.plan.name}.{end}") for end in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(mode=FOLDER)
    _put(new / ".gitignore", "*\n")  # private keys are no part of a repository
    _put(new / COPY, inventory.path.read_text())
    _put(new / "README.md", by_hand.overview(inventory))
    mark = uuid.uuid4().hex
    for machine, configuration in zip(inventory.machines, _vpn(inventory), strict=True):
        _write_machine(new / machine.name, inventory, machine, configuration, mark)
    if inventory.plan.exists():
        inventory.plan.rename(old)
    new.rename(inventory.plan)
    shutil.rmtree(old, ignore_errors=True)
    return inventory.plan


def mark_of(inventory: Inventory) -> str:
    """The plan's own mark, by which a machine's part of it is known.

    Raises:
        UserError: there is no plan, or the inventory has been changed since.
    """
    plan = inventory.plan
    try:
        same = (plan / COPY).read_text() == inventory.path.read_text()
        found = (plan / inventory.server.name / ID).read_text().strip()
    except OSError:
        raise UserError(f"{plan}: no plan is there: `plan` first") from None
    if not same:
        raise UserError(f"{inventory.path.name} is newer than its plan: `plan` and `up` again")
    return found


def check_training(inventory: Inventory, arguments: list[str]) -> None:
    """Refuses, before anything is started, what pipar_rpc would refuse, and what real links cannot do."""
    if command_line.only_informs(hydra_compose.normalise(arguments)):
        raise UserError(f"{' '.join(arguments)}: shows something; `python -m pipar_rpc` does that here")
    for word in arguments:
        key, _, value = word.lstrip("+").partition("=")
        if key == "network":
            ways = "the links are real (network.uplink_mbps and others make them slower)"
            raise UserError(f"{word}: must be left out: {ways}")
        if key in {"num_servers", "node.interface", "node.trusted_network", "node.allow_public"}:
            raise UserError(f"{word}: must be left out: the plan sets it")
        if key == "testbed.time_scale" and value not in {"1", "1.0"}:
            raise UserError(f"{word}: must be 1: the time of real links cannot be scaled")
    raw, _ = hydra_compose.compose([*_server_words(inventory), *arguments])
    load(raw)
    for device in raw.devices.overrides:
        for_device(raw, int(device))


def _vpn(inventory: Inventory) -> list[str]:
    vpn, machines = inventory.vpn, inventory.machines
    keys, names = [new_pair() for _ in machines], [machine.name for machine in machines]
    endpoint = vpn.endpoint or inventory.server.address
    return wireguard.configurations(keys, names, IPv4Network(vpn.subnet), endpoint, vpn.port, vpn.mtu)


def _write_machine(
    folder: Path, inventory: Inventory, machine: Machine, configuration: str, mark: str
) -> None:
    folder.mkdir(mode=FOLDER)
    interface, network = inventory.vpn.interface, IPv4Network(inventory.vpn.subnet)
    _put(folder / f"{interface}.conf", configuration, SECRET)
    _put(folder / f"{interface}.nft", wireguard.firewall(interface, network, inventory.store_port))
    _put(folder / "settings.sh", _settings(inventory, machine))
    _put(folder / "run.sh", run_script(inventory, machine))
    _put(folder / f"{interface}.service", _unit(inventory, machine))
    _put(folder / f"{interface}-vpn.service", _vpn_unit(inventory, machine))
    _put(folder / "README.md", by_hand.page(inventory, machine))
    _put(folder / ID, f"{mark}\n")
    if machine.number:
        _put(folder / REQUIREMENTS.name, REQUIREMENTS.read_text())
    for path in ON_MACHINE.iterdir():
        if path.suffix in {".sh", ".py"} and path.name not in FOR_US:
            _put(folder / path.name, path.read_text())


def _put(path: Path, text: str, mode: int = PLAIN) -> None:
    """Writes a new file that never had another mode."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    path.chmod(mode)  # whatever the umask is


def _settings(inventory: Inventory, machine: Machine) -> str:
    # The server's torchrun ends with 1 when the training has failed, and a device's also when the server was
    # started again, which it must then join.
    again = "yes" if machine.number else "no"
    vpn = {"INTERFACE": inventory.vpn.interface, "SUBNET": inventory.vpn.subnet}
    values = vpn | {"PYTHON": machine.python, "RESTART_ON_FAILURE": again}
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def _server_words(inventory: Inventory) -> list[str]:
    """What the server's command line says besides its node keys."""
    return ["network=none", f"num_servers={inventory.server.ranks}", *inventory.overrides]


def torchrun(inventory: Inventory, machine: Machine) -> list[list[str]]:
    """The command of a machine: its lines as words."""
    place = [f"--nnodes={len(inventory.machines)}", f"--node-rank={machine.number}"]
    meeting = [f"--master-addr={inventory.server.vpn_address}", f"--master-port={inventory.store_port}"]
    ours = [f"node.interface={inventory.vpn.interface}", "node.trusted_network=true", *node_words(machine)]
    return [
        [machine.python, "-m", "torch.distributed.run", *place, f"--nproc-per-node={machine.ranks}"],
        [*meeting, f"--max-restarts={inventory.max_restarts}", "-m", "pipar_rpc"],
        [*ours, *([] if machine.number else _server_words(inventory))],
    ]


def run_script(inventory: Inventory, machine: Machine) -> str:
    """The script that starts a machine's ranks."""
    command = " \\\n    ".join(map(shlex.join, torchrun(inventory, machine)))
    return f"""\
#!/bin/sh
# Starts the ranks of {machine.name}, in the foreground. Arguments are settings of pipar_rpc, the same on all
# machines; without any, what `run` has left in state/arguments counts.
set -eu
cd {shlex.quote(machine.folder)}
if [ $# -eq 0 ] && [ -e state/arguments ]; then
    eval "set -- $(cat state/arguments)"
    [ ! -e state/began ] || set -- "$@" resume=auto # started again, by systemd or its stand-in
    : >state/began
fi
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}" PYTHONUNBUFFERED=1
exec {command} \\
    "$@"
"""


def _unit(inventory: Inventory, machine: Machine) -> str:
    vpn = f"{inventory.vpn.interface}-vpn.service"
    restart = "on-failure" if machine.number else "on-abnormal"
    inside = f"exec /bin/sh {machine.plan}/run.sh >>{machine.state}/log 2>&1"
    wait = f"until ip -4 -o address show dev {inventory.vpn.interface} | grep -q inet; do sleep 1; done"
    ended = f"{machine.state}/ended"  # a training that is done is not begun again after a reboot
    return f"""\
[Unit]
Description=pipar_rpc on {machine.name}
Wants={vpn}
After={vpn}
ConditionPathExists=!{ended}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
User={machine.user}
WorkingDirectory={machine.folder}
ExecStartPre=/bin/sh -c "{wait}"
ExecStart=/bin/sh -c "{inside}"
ExecStopPost=/bin/sh -c 'echo $$EXIT_STATUS >{machine.state}/code'
ExecStopPost=/bin/sh -c '[ $$EXIT_CODE/$$EXIT_STATUS != exited/0 ] || : >{ended}'
Restart={restart}
RestartSec=5
TimeoutStartSec=infinity
TimeoutStopSec=10

[Install]
WantedBy=multi-user.target
"""


def _vpn_unit(inventory: Inventory, machine: Machine) -> str:
    return f"""\
[Unit]
Description=VPN {inventory.vpn.interface} of pipar_rpc on {machine.name}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
Restart=on-failure
RestartSec=5
ExecStart=/bin/sh {machine.plan}/network.sh up
ExecStop=/bin/sh {machine.plan}/network.sh down

[Install]
WantedBy=multi-user.target
"""
