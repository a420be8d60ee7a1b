"""Who may connect: what listens where, and what is refused."""

import os
import re
import socket
from typing import NamedTuple

import psutil
import pytest

from pipar_rpc.base.errors import UserError
from pipar_rpc.transport import network_access
from pipar_rpc.transport.network_access import Binding


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
        network_access.bind(*arguments)
    assert not os.environ["TP_SOCKET_IFNAME"]
    return str(error.value)


@pytest.mark.usefixtures("interfaces")
def test_one_machine_is_loopback_unless_told_otherwise():
    assert network_access.bind("auto", True, False, False) == Binding("lo", LO)
    assert os.environ["TP_SOCKET_IFNAME"] == os.environ["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.mark.usefixtures("interfaces")
def test_whatever_others_can_reach_must_be_trusted():
    error = refusal("eth0", False, False, False)
    assert error.startswith(f"node.interface=eth0: {LAN}, on which torch RPC would listen, can be reached")
    assert "torch RPC has no authentication and runs code for whoever connects" in error
    assert "node.trusted_network=true" in error
    error = refusal("ppp0", False, True, False)
    assert re.search(r"8\.8\.4\.4.* is a public address.*node\.allow_public=true", error)
    assert network_access.bind("eth0", False, True, False) == Binding("eth0", LAN)
    assert network_access.bind("ppp0", False, True, True) == Binding("ppp0", PUBLIC)


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
        assert network_access.bind("eth0", False, True, False) == Binding("eth0", bound)
    else:
        error = refusal("eth0", False, True, False)
        assert f"node.interface=eth0: {bound}, on" in error
        assert problem in error


def test_further_addresses_of_loopback_do_no_harm(interfaces):
    interfaces(eth0=[LAN], lo=[LO, "10.255.255.254", "::1"])  # as in WSL2
    assert network_access.bind("auto", True, False, False) == Binding("lo", LO)


def test_the_interface_towards_the_server_is_found_by_any_of_its_addresses(interfaces, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", LO)  # from which 127.0.0.1 leads there
    interfaces(eth0=[PUBLIC, LO])
    assert f"node.interface=eth0: {PUBLIC}, on" in refusal("auto", False, True, False)
    monkeypatch.setenv("MASTER_ADDR", "::1")
    interfaces(lo=[LO], eth0=[LAN, "::1"])
    assert network_access.bind("auto", False, True, False) == Binding("eth0", LAN)


@pytest.mark.usefixtures("interfaces")
def test_an_unknown_interface_is_one_line():
    with pytest.raises(UserError, match=r"node.interface=eth1: must be auto or .*: did you mean eth0\?"):
        network_access.bind("eth1", True, False, False)


def test_sockets_that_listen_elsewhere_are_found(monkeypatch):
    with socket.create_server((LO, 0)), socket.create_server(("127.0.0.2", 0)):
        with socket.create_server(("0.0.0.0", 0)) as everywhere:
            port = everywhere.getsockname()[1]
            monkeypatch.setenv("MASTER_PORT", str(port))
            network_access.verify(Binding("lo", LO))  # that is torchrun's store
            monkeypatch.setenv("MASTER_PORT", "1")
            with pytest.raises(
                UserError, match=rf"node.interface=lo: this process listens on 0.0.0.0, port {port}"
            ):
                network_access.verify(Binding("lo", LO))
        network_access.verify(Binding("lo", LO))
