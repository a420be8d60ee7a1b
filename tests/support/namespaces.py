"""Network namespaces that stand for hosts."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.processes import Processes


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        return False
    name = f"pipar-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return made.returncode == 0


needs_namespaces = pytest.mark.skipif(not can_make_namespaces(), reason="needs root and iproute2")


def own_namespaces(pid: int) -> list[str]:
    listing = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    return [line for line in listing.splitlines() if line.startswith(f"pipar-{pid}-")]


def start(processes: Processes, *arguments: str) -> subprocess.Popen[str]:
    return processes.start([sys.executable, "-m", "launch.netns", *arguments])
