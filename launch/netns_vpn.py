"""WireGuard between the namespaces of launch.netns, as launch.machines sets it up between machines."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

from launch.machines import wireguard
from launch.machines.keys import new_pair
from pipar_rpc.base.errors import UserError

SUBNET = "10.78.0"
PORT = 51820
OVERHEAD = 80  # bytes of a packet: WireGuard, UDP and an IPv6 header, should that be outside
DEADLINE_S = 60.0


def require_tools() -> None:
    """Raises UserError where WireGuard is missing."""
    for tool in ("wg", "wg-quick"):
        if shutil.which(tool) is None:
            raise UserError(f"--vpn: {tool} is needed (Debian: apt-get install wireguard-tools)")
    if shutil.which("wireguard-go") is None and not Path("/sys/module/wireguard").exists():
        raise UserError("--vpn: the kernel has no WireGuard: apt-get install wireguard-go, or load it")


@contextmanager
def vpn(names: Sequence[str], endpoint: str, mtu: int) -> Iterator[None]:
    """Connects namespaces by a VPN, host i at 10.78.0.(i + 1).

    Args:
        names: names of the namespaces; the server's is the first.
        endpoint: address of the server outside the VPN.
        mtu: largest packet outside it, in bytes.
    """
    keys, network = [new_pair() for _ in names], IPv4Network(f"{SUBNET}.0/24")
    texts = wireguard.configurations(keys, names, network, endpoint, PORT, mtu - OVERHEAD)
    with tempfile.TemporaryDirectory(prefix="pipar") as folder:
        # A name of its own for each interface: the control sockets of wireguard-go share one folder.
        paths = [Path(folder, f"wg{os.getpid()}x{number}.conf") for number in range(len(names))]
        try:
            for name, path, text in zip(names, paths, texts, strict=True):
                path.touch(mode=0o600)
                path.write_text(text)
                _quick(name, "up", path).check_returncode()
            yield
        finally:
            for name, path in zip(names, paths, strict=True):
                if path.exists():
                    _quick(name, "down", path)


def _quick(name: str, what: str, path: Path) -> "subprocess.CompletedProcess[str]":
    command = ["ip", "netns", "exec", name, "wg-quick", what, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
