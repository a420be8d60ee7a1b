"""Measures the way between two machines through the VPN; standard library alone.

Arguments: what, ADDRESS, PORT, SECONDS. `serve`: on the server, for one other machine. `measure`: on that
one; prints Mbit/s up and down and the round trip in ms as JSON. `reach`: waits until the address answers.
"""

import contextlib
import json
import socket
import statistics
import sys
import time

DEADLINE_S = 30.0
TRIPS = 20
CHUNK = bytes(65536)


def connect(where: tuple[str, int], patience_s: float) -> socket.socket:
    """Connects; tries again for as long as nobody answers or listens."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return socket.create_connection(where, timeout=max(0.1, min(3.0, deadline - time.monotonic())))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def reach(where: tuple[str, int], patience_s: float) -> None:
    """Returns when the address answers, and be it that nobody listens on the port."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with socket.create_connection(where, timeout=2.0):
                return
        except ConnectionRefusedError:
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"{where[0]} did not answer through the VPN for {patience_s:.0f} s")
            time.sleep(0.5)


def send(peer: socket.socket, seconds: float) -> None:
    """Sends for so long, then closes this direction."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        peer.sendall(CHUNK)
    peer.shutdown(socket.SHUT_WR)


def receive(peer: socket.socket) -> float:
    """Receives until the end; returns Mbit/s (10^6 bit/s) after the first bytes."""
    first = len(peer.recv(len(CHUNK)))
    began = end = time.monotonic()
    total = 0
    while first and (data := peer.recv(len(CHUNK))):
        total, end = total + len(data), time.monotonic()
    return total * 8e-6 / (end - began) if end > began else 0.0


def serve(where: tuple[str, int], seconds: float) -> None:
    """Echoes bytes, receives, tells how fast that was, and sends."""
    with socket.create_server(where) as listener:
        listener.settimeout(DEADLINE_S)
        for _ in ("trips", "up", "down"):
            peer, _ = listener.accept()
            peer.settimeout(DEADLINE_S)
            with peer, contextlib.suppress(ConnectionResetError):
                kind = peer.recv(1)
                if kind == b"t":
                    while byte := peer.recv(1):
                        peer.sendall(byte)
                elif kind == b"u":
                    peer.sendall(f"{receive(peer):.6g}\n".encode())
                else:
                    send(peer, seconds)


def measure(where: tuple[str, int], seconds: float) -> None:
    """Prints what was measured."""
    trips = []
    with connect(where, DEADLINE_S) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(b"t")
        for _ in range(TRIPS):
            began = time.monotonic()
            peer.sendall(b".")
            peer.recv(1)
            trips.append(time.monotonic() - began)
    with connect(where, DEADLINE_S) as peer:
        peer.settimeout(DEADLINE_S)
        peer.sendall(b"u")
        send(peer, seconds)
        up = float(peer.makefile().readline())
    with connect(where, DEADLINE_S) as peer:
        peer.settimeout(DEADLINE_S)
        peer.sendall(b"d")
        down = receive(peer)
    print(json.dumps({"up_mbps": up, "down_mbps": down, "trip_ms": 1e3 * statistics.median(trips)}))


def main() -> None:
    what, address, port, seconds = sys.argv[1:]
    {"serve": serve, "measure": measure, "reach": reach}[what]((address, int(port)), float(seconds))


if __name__ == "__main__":
    main()
