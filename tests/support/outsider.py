"""Somebody on the machines' switch who is not in their VPN: what is open to them, and what they can read."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.hosts import Site, inside
from tests.support.processes import wait_until

SCAN = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reaches(place):
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        return True
    except OSError:
        return False
with ThreadPoolExecutor(32) as pool:
    print(*(place for place, open in zip(sys.argv[1:], pool.map(reaches, sys.argv[1:])) if open))
"""
RECORD = """
import socket, sys
everything = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
everything.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.write(everything.recv(65536))
"""


@contextmanager
def recording(switch: str, path: Path) -> Iterator[None]:
    """Writes to a file all that crosses a switch."""
    command = ["ip", "netns", "exec", switch, sys.executable, "-I", "-c", RECORD, str(path)]
    process = subprocess.Popen(command)
    try:
        assert wait_until(path.exists, 20)
        yield
    finally:
        process.kill()
        process.wait()


def reaches_nothing(made: Site) -> None:
    """Tries all ports on which anybody listens, before and after the firewall is taken away."""
    places = []
    for number, host in enumerate(made.machines, start=1):
        ports = host.ports()
        assert len(ports) >= 1 + (number == 5), ports
        for address in (host.address, f"10.9.0.{number}"):
            places += [f"{address}:{port}" for port in ports]
        inside(made.outsider.name, "ip", "route", "replace", f"10.9.0.{number}", "via", host.address)
    server, store = made.machines[0], f"{made.machines[0].address}:29500"
    assert store in places
    assert scan(made, places) == []
    rules = inside(server.name, "nft", "list", "ruleset")
    inside(server.name, "nft", "flush", "ruleset")
    reached = scan(made, places)  # which it is the firewall that prevents
    assert store in reached
    assert any(found.startswith("10.9.0.1:") and not found.endswith(":29500") for found in reached)
    saved = server.folder / "plan" / "pipar0.nft"
    inside(server.name, "nft", "-f", str(saved))
    assert inside(server.name, "nft", "list", "ruleset") == rules


def scan(made: Site, places: list[str]) -> list[str]:
    """Those of the places ADDRESS:PORT to which the outsider can connect."""
    return inside(made.outsider.name, sys.executable, "-I", "-c", SCAN, *places).split()
