"""Who may connect: what listens where, and what is refused."""

import os
import re
import socket
import subprocess
import sys
from typing import NamedTuple

import psutil
import pytest

from pipar_rpc.base.errors import UserError
from pipar_rpc.transport import network_interface
from pipar_rpc.transport.network_interface import Binding
from tests.support.namespaces import can_make_namespaces
from tests.support.overrides import SMALL


class Entry(NamedTuple):
    family: int
    address: str


LO, LAN, PUBLIC = "127.0.0.1", "192.168.7.3", "8.8.4.4"
ULA, PUBLIC_6, LINK_LOCAL = "fd00::3", "2001:4860:4860::8844", "fe80::3"


@pytest.fixture
def interfaces(monkeypatch):
    """Sets the addresses of this machine, as getifaddrs would list them."""
    for name in ("TP_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")

    def given(**addresses):
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        entries = {
            name: [Entry(socket.AF_PACKET, "00:11:22:33:44:55")] + [Entry(family[":" in a], a) for a in own]
            for name, own in addresses.items()
        }
        monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)

    given(lo=[LO, "::1"], eth0=[LAN, f"{LINK_LOCAL}%eth0"], ppp0=[PUBLIC])
    return given


def refusal(*arguments):
    with pytest.raises(UserError) as error:
        network_interface.bind(*arguments)
    assert not os.environ["TP_SOCKET_IFNAME"]
    return str(error.value)


@pytest.mark.usefixtures("interfaces")
def test_one_machine_is_loopback_unless_told_otherwise():
    assert network_interface.bind("auto", True, False, False) == Binding("lo", LO)
    assert os.environ["TP_SOCKET_IFNAME"] == os.environ["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.mark.usefixtures("interfaces")
def test_whatever_others_can_reach_must_be_trusted():
    error = refusal("eth0", False, False, False)
    assert error.startswith(f"node.interface=eth0: {LAN}, on which torch RPC would listen, can be reached")
    assert "torch RPC has no authentication and runs code for whoever connects" in error
    assert "node.trusted_network=true" in error
    error = refusal("ppp0", False, True, False)
    assert re.search(r"8\.8\.4\.4.* is a public address.*node\.allow_public=true", error)
    assert network_interface.bind("eth0", False, True, False) == Binding("eth0", LAN)
    assert network_interface.bind("ppp0", False, True, True) == Binding("ppp0", PUBLIC)


@pytest.mark.parametrize(
    ("addresses", "bound", "problem"),
    [
        ([LAN, PUBLIC], LAN, None),
        ([PUBLIC, LAN], PUBLIC, "is a public address"),
        ([LAN, PUBLIC_6, LINK_LOCAL], LAN, None),
        ([PUBLIC_6, LINK_LOCAL], PUBLIC_6, "is a public address"),
        ([ULA, PUBLIC_6], ULA, None),
        ([LINK_LOCAL], LINK_LOCAL, "is an IPv6 link-local address"),
    ],
)
def test_of_several_addresses_the_first_is_bound(interfaces, addresses, bound, problem):
    interfaces(eth0=addresses, lo=[LO])
    if problem is None:
        assert network_interface.bind("eth0", False, True, False) == Binding("eth0", bound)
    else:
        error = refusal("eth0", False, True, False)
        assert f"node.interface=eth0: {bound}, on" in error
        assert problem in error


def test_further_addresses_of_loopback_do_no_harm(interfaces):
    interfaces(eth0=[LAN], lo=[LO, "10.255.255.254", "::1"])  # as in WSL2
    assert network_interface.bind("auto", True, False, False) == Binding("lo", LO)


def test_the_interface_towards_the_server_is_found_by_any_of_its_addresses(interfaces, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", LO)  # from which 127.0.0.1 leads there
    interfaces(eth0=[PUBLIC, LO])
    assert f"node.interface=eth0: {PUBLIC}, on" in refusal("auto", False, True, False)
    monkeypatch.setenv("MASTER_ADDR", "::1")
    interfaces(lo=[LO], eth0=[LAN, "::1"])
    assert network_interface.bind("auto", False, True, False) == Binding("eth0", LAN)


@pytest.mark.usefixtures("interfaces")
def test_an_unknown_interface_is_one_line():
    with pytest.raises(UserError, match=r"node.interface=eth1: must be auto or .*: did you mean eth0\?"):
        network_interface.bind("eth1", True, False, False)


def test_sockets_that_listen_elsewhere_are_found(monkeypatch):
    with socket.create_server((LO, 0)), socket.create_server(("127.0.0.2", 0)):
        with socket.create_server(("0.0.0.0", 0)) as everywhere:
            port = everywhere.getsockname()[1]
            monkeypatch.setenv("MASTER_PORT", str(port))
            network_interface.verify(Binding("lo", LO))  # that is torchrun's store
            monkeypatch.setenv("MASTER_PORT", "1")
            with pytest.raises(
                UserError, match=rf"node.interface=lo: this process listens on 0.0.0.0, port {port}"
            ):
                network_interface.verify(Binding("lo", LO))
        network_interface.verify(Binding("lo", LO))


NAMESPACE = f"pipar-{os.getpid()}-addresses"
LISTEN = """
import os, sys
import psutil
from pipar_rpc import interface, session
from pipar_rpc.base.errors import UserError

os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
allowed = network_interface.bind("eth0", False, True, False)
if os.fork():  # torch is imported once for both
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    os.environ["TP_SOCKET_IFNAME"] = "eth1"  # as if its addresses had changed since
    try:
        with session.join(0, 1, None, 20.0, None, allowed):
            print("joined")
    except UserError as error:
        print("left:", error, flush=True)
        os._exit(2)
with session.join(0, 1, None, 20.0, None, allowed) as group:
    group.exit_code = 0
    sockets = psutil.Process().net_connections("tcp")
    print("listens on", *{s.laddr.ip for s in sockets if s.status == "LISTEN" and s.laddr.port != 29500})
try:
    network_interface.bind("eth1", False, True, False)
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
    done = processes.finish(run, timeout=60)
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
    run = processes.start_torchrun(3, *SMALL, "epochs=1000")
    processes.wait_for("outputs/*/*/checkpoints/round_000002.pt")
    ranks = psutil.Process(run.pid).children()
    assert len(ranks) == 3
    for rank in ranks:
        addresses = listening(rank.pid)
        assert addresses
        assert {address for address, _ in addresses} == {"127.0.0.1"}
    ((_, port),) = listening(run.pid)  # torchrun's store: on all addresses, torch offers no choice
    run.terminate()
    out = "".join(run.communicate(timeout=30))
    line = (
        f"RPC listens on lo (127.0.0.1), torchrun's store on all addresses, port {port}: every user of this "
    )
    assert line + "machine can connect and run code here; README, Security, says how" in out
    assert re.search(r"\[rank 0 server\]", out)
