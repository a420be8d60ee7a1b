"""Network namespaces that stand for machines: each has an sshd, and one bridge connects them all."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launch import netns
from tests.support.namespaces import can_make_namespaces
from tests.support.processes import ROOT, Processes, wait_until

WANTED = "PIPAR_TEST_MACHINES"
SSHD = "/usr/sbin/sshd"
KEYGEN = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "")
TOOLS = (SSHD, "ssh", "ssh-keygen", "wg", "wg-quick", "wireguard-go", "nft", "setsid", "ss")


def missing(tools: Iterable[str], packages: str) -> str:
    """Which tools are not here, and where they come from; empty if all are."""
    found = [tool for tool in tools if not shutil.which(tool)]
    return f"{', '.join(found)} missing: apt-get install {packages}" if found else ""


def _why_not() -> str:
    if os.environ.get(WANTED) != "1":
        return f"takes minutes: set {WANTED}=1"
    if lacks := missing(TOOLS, "openssh-server wireguard-go wireguard-tools nftables iproute2"):
        return lacks
    if Path("/run/systemd/system").exists():
        return "systemd runs here, and would be given the units of namespaces"
    return "" if can_make_namespaces() else "needs root and iproute2 to make network namespaces"


needs_hosts = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


def inside(name: str, *command: str, check: bool = True) -> str:
    """Runs a command in a namespace; returns what it printed."""
    words = ["ip", "netns", "exec", name, *command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Host:
    """A namespace with an address, a folder and an sshd."""

    name: str
    address: str
    folder: Path
    runs: "subprocess.Popen[bytes] | None" = None
    user = "root"
    has_systemd = False

    def start(self) -> None:
        """Starts sshd; what runs below it has its own folder for the control sockets of wireguard-go."""
        own = "mkdir -p /run/sshd /run/wireguard && mount -t tmpfs none /run/wireguard"
        sshd = f"exec {SSHD} -D -f {self.sshd_config()}"
        self.runs = subprocess.Popen(["ip", "netns", "exec", self.name, "sh", "-c", f"{own} && {sshd}"])
        self.wait_for_sshd(20)

    def sshd_config(self) -> Path:
        """Writes how sshd listens here, and whom it lets in."""
        config = self.folder.with_suffix(".sshd")
        lines = [f"ListenAddress {self.address}", "PermitRootLogin prohibit-password", "StrictModes no"]
        lines += ["PidFile none", "UsePAM no", f"HostKey {self.folder.with_suffix('.host_key')}"]
        lines.append(f"AuthorizedKeysFile {self.folder.parent / 'key.pub'}")
        config.write_text("\n".join(lines) + "\n")
        return config

    def wait_for_sshd(self, timeout_s: float) -> None:
        assert wait_until(lambda: f"{self.address}:22" in inside(self.name, "ss", "-Hltn"), timeout_s)

    def cut(self) -> None:
        """What a power cut does: nothing runs any more, and nobody has said goodbye."""
        for pid in self.pids():
            subprocess.run(["kill", "-KILL", pid], check=False, capture_output=True)
        assert self.runs is not None
        self.runs.wait(20)
        assert wait_until(lambda: not self.pids(), 20)

    def remove(self) -> None:
        """Waits for the end of what ran there, which the end of its namespace has killed."""
        if self.runs is not None:
            self.runs.wait(20)

    def pids(self) -> list[str]:
        """All processes of the machine."""
        return netns.run("ip", "netns", "pids", self.name).split()

    def units(self) -> list[Path]:
        """What systemd was given by us."""
        return []

    def ports(self) -> list[int]:
        """The TCP ports on which anybody listens, but for sshd."""
        words = [line.split()[3] for line in inside(self.name, "ss", "-Hltn").splitlines()]
        return sorted({int(word.rpartition(":")[2]) for word in words} - {22})


@dataclass
class Site:
    """Machines, somebody who is not one of them, a desk from which they are commanded, and their switch."""

    machines: list[Host]
    outsider: Host
    desk: Host
    switch: str
    processes: Processes
    ssh: dict[str, Any] = field(default_factory=dict)

    def start(self, inventory: Path, *words: str) -> "subprocess.Popen[str]":
        """Begins `python -m launch.machines` at the desk."""
        launch = [sys.executable, "-m", "launch.machines", str(inventory), *words]
        return self.processes.start(["ip", "netns", "exec", self.desk.name, *launch])

    def run(self, inventory: Path, *words: str) -> str:
        """Runs it to its end, which must be good; returns what it printed."""
        done = self.processes.finish(self.start(inventory, *words), 300)
        assert done.code == 0, done.out + done.err
        return done.out


@contextmanager
def site(folder: Path, num_machines: int, kind: type[Host] = Host) -> Iterator[Site]:
    """Makes everything, and removes it; the machines are of a kind."""
    folder.chmod(0o755)  # for users who are not root
    subprocess.run([*KEYGEN, "-f", str(folder / "key")], check=True)
    processes, hosts = Processes(folder), list[Host]()
    try:
        with netns.hosts(num_machines + 1, None, None, 1500) as names:
            hosts += [
                (kind if number < num_machines else Host)(
                    name, f"{netns.SUBNET}.{number + 1}", folder / f"host{number}"
                )
                for number, name in enumerate(names)
            ]
            known = [_host_key(host) for host in hosts]
            (folder / "known_hosts").write_text("\n".join(known) + "\n")
            for host in hosts[:num_machines]:
                host.start()
            ssh = {"known_hosts": str(folder / "known_hosts"), "identity": str(folder / "key")}
            *machines, outsider, desk = hosts
            switch = f"{netns.PREFIX}-{os.getpid()}-switch"
            try:
                yield Site(machines, outsider, desk, switch, processes, ssh)
            finally:
                processes.end_all()
    finally:
        for host in hosts:
            host.remove()


def _host_key(host: Host) -> str:
    """Makes a host's key; returns its line for known_hosts."""
    key = host.folder.with_suffix(".host_key")
    subprocess.run([*KEYGEN, "-f", str(key)], check=True)
    return f"{host.address} {key.with_suffix('.host_key.pub').read_text().strip()}"


def python_of(folder: Path) -> Path:
    """A command that is this Python, in which the checkout can be imported."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path
