"""Inventories of launch.machines, and machines that are folders of this one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.machines import plan
from launch.machines.deploy import copy
from launch.machines.inventory import read
from launch.machines.schema import Inventory
from tests.support.commands import run_here
from tests.support.processes import Finished, wait_until

needs_loop = pytest.mark.skipif(
    Path("/run/systemd/system").exists() or shutil.which("setsid") is None,
    reason="systemd would be asked to start the ranks, or setsid is missing",
)
SLEEPS = "exec sleep 600"
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


def run(inventory: Inventory, *words: str) -> Finished:
    """Runs a command of launch.machines in this process."""
    return run_here("launch.machines", inventory.path, *words)


def begun_elsewhere(inventory: Inventory) -> "subprocess.Popen[str]":
    """`run` in a process of its own."""
    command = [sys.executable, "-m", "launch.machines", str(inventory.path), "run"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def nothing_is_left(inventory: Inventory) -> bool:
    """Whether no process of the machines lives, once those that end by themselves within a second have."""
    return bool(wait_until(lambda: not _processes_of(inventory), 5))


def _processes_of(inventory: Inventory) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            where, words = (path / "cwd").readlink(), (path / "cmdline").read_text()
        except OSError:
            continue
        if where.is_relative_to(inventory.path.parent) and int(path.name) != os.getpid():
            found.append(words)
    return found
