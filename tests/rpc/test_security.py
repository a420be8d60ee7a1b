"""Who may connect to a running job: what it listens on."""

import os
import re
import subprocess
import sys

import psutil
import pytest

from tests.support.namespaces import can_make_namespaces
from tests.support.overrides import SMALL

LO, LAN, PUBLIC = "127.0.0.1", "192.168.7.3", "8.8.4.4"
ULA, PUBLIC_6, LINK_LOCAL = "fd00::3", "2001:4860:4860::8844", "fe80::3"
NAMESPACE = f"pipar-{os.getpid()}-addresses"
LISTEN = """
import os, sys
import psutil
from pipar_rpc.base.errors import UserError
from pipar_rpc.base.ranks import World
from pipar_rpc.transport import network_access, rpc_group

os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
allowed = network_access.bind("eth0", False, True, False)
if os.fork():  # torch is imported once for both
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    os.environ["TP_SOCKET_IFNAME"] = "eth1"  # as if its addresses had changed since
    try:
        with rpc_group.join(World(0, 1, 0, 1), None, 20.0, None, allowed):
            print("joined")
    except UserError as error:
        print("left:", error, flush=True)
        os._exit(2)
with rpc_group.join(World(0, 1, 0, 1), None, 20.0, None, allowed) as group:
    group.exit_code = 0
    sockets = psutil.Process().net_connections("tcp")
    print("listens on", *{s.laddr.ip for s in sockets if s.status == "LISTEN" and s.laddr.port != 29500})
try:
    network_access.bind("eth1", False, True, False)
except UserError as error:
    print("refused:", error, flush=True)
os._exit(0)
"""


@pytest.fixture
def _two_addresses_each():
    """A namespace whose eth0 has first a private, then a public address, eth1 first the public one."""
    if not can_make_namespaces():
        pytest.skip("needs root and iproute2 to make a network namespace")
    for command in (
        f"netns add {NAMESPACE}",
        f"-n {NAMESPACE} link add eth0 type veth peer name eth1",
        f"-n {NAMESPACE} address add {LAN}/24 dev eth0",
        f"-n {NAMESPACE} address add {PUBLIC}/32 dev eth0",
        f"-n {NAMESPACE} address add 8.8.8.8/32 dev eth1",
        f"-n {NAMESPACE} address add 192.168.8.3/24 dev eth1",
        *(f"-n {NAMESPACE} link set {name} up" for name in ("lo", "eth0", "eth1")),
    ):
        subprocess.run(["ip", *command.split()], check=True)
    yield
    subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)


@pytest.mark.usefixtures("_two_addresses_each")
def test_the_address_that_was_allowed_is_the_one_that_is_bound(processes):
    run = processes.start(["ip", "netns", "exec", NAMESPACE, sys.executable, "-c", LISTEN])
    done = processes.finish(run)
    assert done.code == 2, done.err
    bound, refused, left = done.out.splitlines()
    assert bound == f"listens on {LAN}"
    assert refused.startswith(
        "refused: node.interface=eth1: 8.8.8.8, on which torch RPC would listen, is a p"
    )
    line = (
        rf"left: node.interface=eth0: this process listens on 8.8.8.8, port \d+, instead of {LAN}, and torch"
    )
    assert re.match(line, left)


def listening(pid):
    connections = psutil.Process(pid).net_connections(kind="inet")
    return {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}


def test_all_that_a_running_job_listens_on(processes):
    run = processes.start_torchrun(2, *SMALL, "epochs=1000")
    processes.wait_for("outputs/*/*/checkpoints/round_000002.pt")
    ranks = sorted(psutil.Process(run.pid).children(), key=lambda rank: rank.pid)
    assert len(ranks) == 2
    for number, rank in enumerate(ranks):
        pictures = any("/matplotlib/" in mapped.path for mapped in rank.memory_maps())
        assert pictures == (number == 0)  # no device imports what only the server needs
        addresses = listening(rank.pid)
        assert addresses
        assert {address for address, _ in addresses} == {"127.0.0.1"}
    ((_, port),) = listening(run.pid)  # torchrun's store: on all addresses, torch offers no choice
    run.terminate()
    out = "".join(run.communicate(timeout=60))
    line = (
        f"RPC listens on lo (127.0.0.1), torchrun's store on all addresses, port {port}: every user of this "
    )
    assert line + "machine can connect and run code here; docs/security.md says how" in out
    assert re.search(r"\[rank 0 server\]", out)
