"""Looks at the machines before a training: `check` prints a table, and what to mend."""

import json
import shlex
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from launch.machines import plan
from launch.machines.deploy import copy, if_there, reach, refuse_unless, removal, source
from launch.machines.inventory import node_words
from launch.machines.remote import MachineError, on_all, run, terminated_as_interrupted
from launch.machines.schema import Inventory, Machine
from pipar_rpc.base.errors import UserError
from pipar_rpc.base.threads import open_pool
from pipar_rpc.plan.load import parse_node
from pipar_rpc.plan.node_schema import DEVICE
from pipar_rpc.results.terminal import table

VERSIONS = ("python", "torch", "pipar_rpc")
NEEDED = ("torch", "numpy", "omegaconf", "psutil", "pipar_rpc")
NEEDED_BY_SERVER = ("hydra", "tensorboard", "matplotlib", "torchvision")
MEMORY_MB = 500  # of a rank of VGG5: docs/measurements.md, "Memory and threads"
DISK_MB = 1000
CLOCK_S = 2.0
LINK_S = 2.0  # for which each direction of a link is measured
HEADINGS = ["machine", *VERSIONS, "disk GB", "memory GB", "clock s", "data", "up Mbit/s", "down Mbit/s", "ms"]


@dataclass
class Finding:
    """What was found on a machine.

    Attributes:
        probed: what `probe.py` has printed.
        clock_s: seconds by which the clock differs from ours, beyond what asking took.
        link: what `link.py` has measured; empty if it could not.
        mend: what the user has to do.
    """

    machine: Machine
    probed: dict[str, Any]
    clock_s: float
    link: dict[str, float] = field(default_factory=dict)
    mend: list[str] = field(default_factory=list)


def check(inventory: Inventory) -> int:
    """Prints a table of all machines and what to mend; returns 1 if there is anything, else 0."""
    plan.mark_of(inventory)
    refuse_unless(inventory, idle=True)
    findings = on_all(inventory.machines, lambda machine: _probe(inventory, machine))
    for finding in findings:
        finding.mend += _to_mend(finding, findings[0])
    if all(not finding.probed["tools"] and finding.probed["root"] for finding in findings):
        try:
            with terminated_as_interrupted(signal.SIGHUP):
                _measure_links(inventory, findings)
        except UserError as error:
            findings[0].mend.append(f"links not measured: {error}")
    print("\n".join(table(HEADINGS, [_row(finding) for finding in findings])))
    mend = [f"{finding.machine.name}: {what}" for finding in findings for what in finding.mend]
    print("\n".join(["", *(["to mend:", *(f"  {line}" for line in mend)] if mend else ["nothing to mend"])]))
    return 1 if mend else 0


def _probe(inventory: Inventory, machine: Machine) -> Finding:
    data_root = parse_node(node_words(machine)).data_root.partition(DEVICE)[0]
    modules = NEEDED if machine.number else (*NEEDED, *NEEDED_BY_SERVER)
    words = shlex.join([machine.folder, data_root, inventory.vpn.interface, *modules])
    began = time.time()
    printed = run(machine, inventory.ssh, "probe", f"{machine.python} - {words}", source("probe.py"))
    ended = time.time()
    probed = _json(machine, "probe", printed)
    theirs = float(probed["time"])
    return Finding(machine, probed, min(0.0, theirs - began) + max(0.0, theirs - ended))


def _json(machine: Machine, step: str, printed: str) -> Any:
    """The last line that a machine's Python has printed; before it, a login shell may have spoken."""
    try:
        return json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise MachineError(machine, step, f"{machine.python} answers like no Python") from error


def _to_mend(finding: Finding, server: Finding) -> list[str]:
    found, machine, mend = finding.probed, finding.machine, []
    if found["missing"]:
        mend.append(f"{', '.join(found['missing'])} missing in {machine.python}: install.sh of the plan")
    for name in VERSIONS:
        own, wanted = found[name], server.probed[name]
        if own and wanted and own != wanted:
            mend.append(f"{name} {own}, but {wanted} on the server: install the same version")
    if found["tools"]:
        packages = "apt-get install wireguard-tools nftables iproute2 util-linux"
        mend.append(f"{', '.join(found['tools'])} missing: {packages}")
    if not found["root"]:
        mend.append(f"{machine.user} must be root or allowed `sudo -n`, for VPN, firewall and systemd")
    if found["disk_mb"] < DISK_MB:
        mend.append(f"{found['disk_mb']:.0f} MB of disk left in {machine.folder}: {DISK_MB} MB are needed")
    if found["memory_mb"] < MEMORY_MB * machine.ranks:
        needed = f"{MEMORY_MB * machine.ranks} MB for {machine.ranks} rank(s) of VGG5: more, or swap"
        mend.append(f"{found['memory_mb']:.0f} MB of memory left, and it takes {needed}")
    if abs(finding.clock_s) > CLOCK_S:
        mend.append(f"the clock is {finding.clock_s:+.0f} s from ours: timedatectl set-ntp true")
    if "data_root" in machine.node and not found["data"]:
        mend.append(f"node.data_root={machine.node['data_root']}: no such folder there")
    return mend


def _measure_links(inventory: Inventory, findings: list[Finding]) -> None:
    """Measures all links, one after the other; a VPN that is not up yet is for as long as that takes."""
    up = [finding.probed["up"] for finding in findings]
    if all(up):
        _measure_each(inventory, findings)
        return
    if any(up):
        raise UserError("the VPN is up on some machines only: `up` first")
    ssh = inventory.ssh
    try:
        on_all(inventory.machines, lambda machine: copy(inventory, machine))
        on_all(
            inventory.machines, lambda machine: run(machine, ssh, "VPN", f"sh {machine.plan}/network.sh up")
        )
        on_all(inventory.machines, lambda machine: reach(inventory, machine))
        _measure_each(inventory, findings)
    finally:
        on_all(inventory.machines, lambda machine: _clean_up(inventory, machine))


def _clean_up(inventory: Inventory, machine: Machine) -> None:
    script = f"{if_there(f'{machine.plan}/network.sh', 'down')} && {{ {removal(machine)}; }}"
    try:
        run(machine, inventory.ssh, "clean up", script)
    except MachineError as error:
        raise UserError(f"{error}: VPN and plan may be left there: `down` takes them away") from error


def _measure_each(inventory: Inventory, findings: list[Finding]) -> None:
    server, where = inventory.server, f"{inventory.server.vpn_address} {inventory.store_port} {LINK_S:g}"
    script = source("link.py")

    def ask(machine: Machine, what: str) -> str:
        return run(machine, inventory.ssh, "measure the link", f"{machine.python} - {what} {where}", script)

    for finding in findings[1:]:
        with open_pool("link") as pool:
            served = pool.submit(ask, server, "serve")
            finding.link = _json(finding.machine, "measure the link", ask(finding.machine, "measure"))
            served.result()


def _row(finding: Finding) -> list[str]:
    found, link = finding.probed, finding.link
    figures = [f"{link[key]:.1f}" if link else "-" for key in ("up_mbps", "down_mbps", "trip_ms")]
    sizes = [f"{found['disk_mb'] / 1e3:.1f}", f"{found['memory_mb'] / 1e3:.1f}", f"{finding.clock_s:+.1f}"]
    data = {True: "yes", False: "no"}[found["data"]] if "data_root" in finding.machine.node else "-"
    return [finding.machine.name, *(found[name] or "-" for name in VERSIONS), *sizes, data, *figures]
