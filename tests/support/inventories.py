"""Inventories of launch.machines, and machines that are folders of this one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from launch.machines import plan
from launch.machines.deploy import copy
from launch.machines.inventory import read
from launch.machines.schema import Inventory

# Stands for the Python of a machine: does what `behaviour` in the machine's folder says, as a shell.
PYTHON = '#!/bin/sh\necho "torchrun $*"\n. ./behaviour\n'


def example() -> dict[str, Any]:
    """A server and three boards, of which one is two devices."""
    return {
        "defaults": {"user": "pi", "folder": "/opt/pipar", "python": "/opt/pipar/venv/bin/python"},
        "server": {"address": "train.example.org", "user": "alice", "node": {"threads": 2}},
        "devices": [
            {"name": "board", "address": "192.168.7.11", "node": {"data_root": "/data", "device": "cpu"}},
            {
                "name": "jetson",
                "address": "192.168.7.12",
                "ranks": 2,
                "node": {"data_root": "/data/{device}"},
                "overrides": [{"pipeline": {"split_point": 2}}, {"batch_size": 50}],
            },
            {"address": "192.168.7.13", "ssh_port": 2222, "overrides": {"pipeline.num_micro_batches": 4}},
        ],
    }


def write(folder: Path, inventory: Mapping[str, Any]) -> Path:
    """Writes an inventory; returns where it is."""
    path = folder / "machines.yaml"
    path.write_text(yaml.safe_dump(dict(inventory)))
    return path


def folders(tmp_path: Path, **behaviours: str) -> Inventory:
    """Machines of this name that are folders of this one, with a plan that is copied to them, and no VPN."""
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    keys = {"user": "me", "local": True, "python": str(python)}
    machines: list[dict[str, Any]] = []
    for number, (name, behaviour) in enumerate(behaviours.items(), start=1):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "behaviour").write_text(behaviour)
        machines.append({**keys, "name": name, "address": f"127.0.0.{number}", "folder": str(folder)})
    rest = {"ssh": {"timeout_s": 20}, "vpn": {"interface": "lo"}}  # ranks start where the interface is up
    path = write(tmp_path, {"server": machines[0], "devices": machines[1:], **rest})
    inventory = read(path)
    plan.write(inventory)
    for machine in inventory.machines:
        copy(inventory, machine)
    return inventory
