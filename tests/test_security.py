"""Who may connect: what listens where, and what is refused."""

import os
import re

import psutil
import pytest

from pipar_rpc import interface
from pipar_rpc.errors import UserError

from .conftest import SMALL

ADDRESSES = {"lo": "127.0.0.1", "eth0": "192.168.7.3", "ppp0": "8.8.4.4"}


@pytest.fixture
def _interfaces(monkeypatch):
    monkeypatch.setattr(interface, "_ipv4_addresses", lambda: ADDRESSES)
    for name in ("TP_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("_interfaces")
def test_one_machine_is_loopback_unless_told_otherwise():
    assert interface.bind("auto", True, False, False) == "lo (127.0.0.1)"
    assert os.environ["TP_SOCKET_IFNAME"] == os.environ["GLOO_SOCKET_IFNAME"] == "lo"


@pytest.mark.usefixtures("_interfaces")
def test_whatever_others_can_reach_must_be_trusted():
    with pytest.raises(UserError) as error:
        interface.bind("eth0", False, False, False)
    assert "node.interface=eth0: 192.168.7.3 can be reached from other machines" in str(error.value)
    assert "torch RPC has no authentication and runs code for whoever connects" in str(error.value)
    assert "node.trusted_network=true" in str(error.value)
    assert interface.bind("eth0", False, True, False) == "eth0 (192.168.7.3)"
    with pytest.raises(UserError, match=r"8\.8\.4\.4 is a public address.*node\.allow_public=true"):
        interface.bind("ppp0", False, True, False)
    assert interface.bind("ppp0", False, True, True) == "ppp0 (8.8.4.4)"


@pytest.mark.usefixtures("_interfaces")
def test_an_unknown_interface_is_one_line():
    with pytest.raises(UserError, match=r"node.interface=eth1: must be auto or .*: did you mean eth0\?"):
        interface.bind("eth1", True, False, False)


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
    line = f"RPC listens on lo (127.0.0.1); torchrun's store on all addresses, port {port}: shield it"
    assert line in out
    assert re.search(r"\[rank 0 server\]", out)
