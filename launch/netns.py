"""Runs pipar_rpc over links that the kernel shapes: one network namespace per host, one torchrun each.

    python -m launch.netns --devices 4 --network 4g -- pipeline.num_micro_batches=8

Needs root, ip and tc. Every host gets a namespace and a veth pair to a bridge in a namespace of its own, so
the machine's real network is never touched. A device's uplink is shaped where packets leave the device, its
downlink where they leave the bridge (tc tbf). With --vpn, all that the hosts say to each other goes through
WireGuard. Everything is removed at the end, also after Ctrl-C; what a killed run left behind is removed by
the next one.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from omegaconf import OmegaConf

from launch import netns_vpn
from launch.script import run_script
from pipar_rpc.base.errors import ConfigError, UserError, nearest, require
from pipar_rpc.base.ranks import worker_name
from pipar_rpc.hydra_compose import config_dir

PREFIX = "pipar"
SUBNET = "10.77.0"
PORT = 29500
Popen = subprocess.Popen[bytes]
GRACE_S = 20.0  # how long the device hosts may take to end after the server
STOP_S = 10.0  # how long they may take to end when told to
# A queue of 400 ms, as in a cellular modem: short queues make TCP lose packets and the rate with them.
TBF = ["burst", "16kb", "latency", "400ms"]


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout


def namespaces() -> list[str]:
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip()]


def remove(names: list[str]) -> None:
    """Ends what still runs in the namespaces and deletes them; their interfaces go with them."""
    for name in names:
        for pid in run("ip", "netns", "pids", name, check=False).split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        run("ip", "netns", "delete", name, check=False)


def remove_stale() -> None:
    """Removes namespaces of runs whose process is gone."""
    for name in namespaces():
        parts = name.split("-")
        if len(parts) == 3 and parts[0] == PREFIX and not Path(f"/proc/{parts[1]}").exists():
            remove([name])


@contextmanager
def hosts(
    num_devices: int, uplink_mbps: float | None, downlink_mbps: float | None, mtu: int
) -> Iterator[list[str]]:
    """Namespaces of the server and the devices, connected and shaped; yields their names."""
    switch = f"{PREFIX}-{os.getpid()}-switch"
    names = [f"{PREFIX}-{os.getpid()}-{rank}" for rank in range(num_devices + 1)]
    try:
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for rank, name in enumerate(names):
            port = f"port{rank}"
            run("ip", "netns", "add", name)
            run(
                "ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name
            )
            run("ip", "-n", switch, "link", "set", port, "mtu", str(mtu), "master", "bridge", "up")
            run("ip", "-n", name, "address", "add", f"{SUBNET}.{rank + 1}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "mtu", str(mtu), "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            if rank > 0:
                shape(name, "eth0", uplink_mbps)
                shape(switch, port, downlink_mbps)
        yield names
    finally:
        remove([*names, switch])


def shape(namespace: str, interface: str, mbps: float | None) -> None:
    """Limits what leaves an interface to `mbps` (10^6 bit/s, link-layer headers included)."""
    if mbps is not None:
        rate = f"{round(mbps * 1e6)}bit"
        run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf", "rate", rate, *TBF)


def start(
    name: str, rank: int, num_hosts: int, hosts_file: str, overrides: list[str], options: list[str]
) -> Popen:
    """Starts one host's torchrun, with a /etc/hosts of its own in which the hosts have names."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={num_hosts}", f"--node-rank={rank}"]
    torchrun += ["--nproc-per-node=1", f"--master-port={PORT}", *options]
    inside = f"mount --bind {shlex.quote(hosts_file)} /etc/hosts && exec " + shlex.join(
        [*torchrun, "-m", "pipar_rpc", *overrides]
    )
    return subprocess.Popen(["ip", "netns", "exec", name, "sh", "-c", inside])


def run_hosts(
    names: list[str], subnet: str, overrides: list[str], keep_going: bool, torchrun: list[str]
) -> int:
    with tempfile.NamedTemporaryFile("w", prefix=PREFIX, suffix=".hosts") as hosts_file:
        hosts_file.write("127.0.0.1 localhost\n")
        for rank in range(len(names)):  # torch asks for the name of the mapped IPv6 address
            for address in (f"{subnet}.{rank + 1}", f"::ffff:{subnet}.{rank + 1}"):
                hosts_file.write(f"{address} {worker_name(rank)}\n")
        hosts_file.flush()
        options = [f"--master-addr={subnet}.1", *torchrun]
        processes: list[Popen] = []
        try:
            for rank, name in enumerate(names):
                processes.append(start(name, rank, len(names), hosts_file.name, overrides, options))
            return wait_for_all(processes, keep_going)
        finally:
            for process in processes:
                process.terminate()  # torchrun ends its ranks; what is left after that is killed by remove()
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)


def wait_for_all(processes: list[Popen], keep_going: bool) -> int:
    """Waits for the server's host, then not much longer for the others; returns the worst exit code.

    With `keep_going` hosts of devices may fail: only the server's code counts.
    """
    watched = processes[:1] if keep_going else processes
    while processes[0].poll() is None and not any(process.poll() for process in watched):
        time.sleep(0.2)
    deadline = time.monotonic() + GRACE_S
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(max(0.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            codes.append(1)
    return abs(codes[0]) if keep_going else max(abs(code) for code in codes)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.netns", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=4, help="number of devices, one host each")
    parser.add_argument("--network", default="4g", help="a preset of conf/network/")
    parser.add_argument("--mtu", type=int, default=1500, help="largest packet in bytes (default 1500)")
    parser.add_argument("--vpn", action="store_true", help="through WireGuard, as launch.machines does")
    parser.add_argument("--keep-going", action="store_true", help="device hosts may fail; the server goes on")
    parser.add_argument("--max-restarts", default="0", help="of each host's torchrun (default 0)")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of pipar_rpc, after --")
    return parser.parse_args()


def check(args: argparse.Namespace) -> Path:
    """Refuses what cannot be done; returns the file of the network's preset."""
    preset = config_dir() / "network" / f"{args.network}.yaml"
    if not preset.is_file():
        names = [path.stem for path in preset.parent.glob("*.yaml")]
        raise ConfigError("--network", args.network, f"a preset: {nearest(args.network, names)}")
    require(1 <= args.devices <= 250, "--devices", args.devices, "1..250")
    require(576 <= args.mtu <= 65535, "--mtu", args.mtu, "576..65535 bytes")
    for override in args.overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == "testbed.time_scale" and value not in {"1", "1.0"}:
            raise ConfigError(key, value, "1 over real links: the kernel's time cannot be scaled")
        if key == "num_servers" and value != "1":
            raise ConfigError(key, value, "1: the links of further servers are not shaped")
    if os.geteuid() != 0:
        raise UserError("network namespaces need root; without root, network=... emulates the links")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise UserError(f"{tool} is needed (Debian: apt-get install iproute2)")
    if args.vpn:
        netns_vpn.require_tools()
    return preset


def main() -> int:
    args = parse()
    rates = OmegaConf.load(check(args))
    # The kernel shapes the links, so the emulation inside the processes is switched off.
    links = f"{args.network}_kernel{'_vpn' if args.vpn else ''}"
    overrides = ["network=none", f"network.name={links}", "node.trusted_network=true", *args.overrides]
    subnet = netns_vpn.SUBNET if args.vpn else SUBNET
    remove_stale()
    torchrun = [f"--max-restarts={args.max_restarts}"]
    with (
        hosts(args.devices, rates.uplink_mbps, rates.downlink_mbps, args.mtu) as names,
        netns_vpn.vpn(names, f"{SUBNET}.1", args.mtu) if args.vpn else nullcontext(),
    ):
        return run_hosts(names, subnet, overrides, args.keep_going, torchrun)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run_script("launch.netns", main)
