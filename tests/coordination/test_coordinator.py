"""Rounds without processes: real ports and rounds, devices that answer at once."""

import time
from concurrent.futures import Future

import pytest
import torch

from pipar_rpc.base.errors import LostError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.coordination.coordinator import Coordinator
from pipar_rpc.coordination.device_handle import Peer
from pipar_rpc.coordination.epoch_result import EpochSums
from pipar_rpc.coordination.membership import Roster
from pipar_rpc.plan.deadlines import Deadlines, Patience
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.exchange import Result
from pipar_rpc.training.round_report import RoundReport
from pipar_rpc.transport.server_port import Port


class Half:
    """One number, which the update makes one larger; it comes late, or ends with an error."""

    def __init__(self, error=None):
        self.number, self._error = torch.zeros(1), error

    def process(self, part, activation, labels, reply):
        reply(Result(torch.zeros(1, 2), 0.0, 0))
        time.sleep(0.2)
        if self._error:
            raise self._error
        self.number += 1

    def snapshot(self):
        return self.number.clone()

    def restore(self, snapshot):
        self.number = snapshot

    def state(self):
        return {"server": self.number}

    def load(self, state):
        self.number = state["server"].clone()


class Remote:
    """A device of one micro-batch an epoch."""

    lost = False

    def __init__(self, port):
        self._port = port

    def call(self, method, *args):
        result = Future()
        if method == "train":
            part, activation = Part(1, 0, 1, 1, 1.0), torch.ones(1, 2, requires_grad=True) * 1
            trained = self._port.deliver(0, part, 0, activation, torch.zeros(1, dtype=torch.int64))
            trained.then(lambda _: result.set_result(RoundReport(iterations=1, samples=1, losses=[0.0])))
        else:
            result.set_result({"device": torch.ones(1)} if method == "upload" else None)
        return result


def make_peer(number, half):
    port = Port(f"device{number}", half.process, Link(), Timeline())
    patience = Patience(Deadlines(10.0, 10.0, 10.0))
    return Peer(port.name, Remote(port), port, half, Timeline(), patience, True, (1,), 1)


@pytest.fixture
def train(monkeypatch):
    """Trains an epoch, without its figures; returns the network after it and the devices that are left."""
    monkeypatch.setattr(EpochSums, "note", lambda *_: None)
    monkeypatch.setattr("torch.distributed.autograd.backward", lambda context_id, roots: None)

    def run(halves, in_turn):
        peers, networks = [make_peer(number, half) for number, half in enumerate(halves, start=1)], []
        coordinator = Coordinator(
            Roster(peers), -1, in_turn, on_aggregated=lambda network, *_: networks.append(network) or {}
        )
        coordinator.train_epoch(1)
        for peer in peers:
            peer.port.close()
        return networks[0], [peer.name for peer in peers if peer.present]

    return run


def test_a_round_waits_for_the_last_updates_by_itself(train):
    """It was once a figure of the epoch that waited for them."""
    network, _ = train([Half(), Half()], in_turn=False)
    assert network["server"] == 1
    half = Half()
    network, _ = train([half, half], in_turn=True)
    assert network["server"] == 2


@pytest.mark.parametrize("in_turn", [False, True], ids=["averaged", "in turn"])
def test_a_device_whose_last_update_fails_leaves_and_the_others_go_on(train, in_turn):
    """The device knows nothing of it: it has its gradient."""
    network, left = train([Half(), Half(LostError("a gradient is not finite"))], in_turn)
    assert left == ["device1"]
    assert network["server"] == 1
