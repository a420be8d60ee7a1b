"""Rounds without processes: real ports and rounds, devices that answer at once."""

import time
from concurrent.futures import Future
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from pipar_rpc.base.errors import LostError, PeerError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.coordination.coordinator import Coordinator
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.epoch_result import EpochSums
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.rounds import Position, Round
from pipar_rpc.plan.deadlines import Deadlines, DeadlineSpec
from pipar_rpc.privacy.gradients import NOTHING
from pipar_rpc.privacy.ledger import Ledger
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Busy, Stage, Timeline
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.exchange import Result
from pipar_rpc.training.round_report import RoundReport
from pipar_rpc.training_loop import TrainingLoop
from pipar_rpc.transport.gradient_carrier import WayBack, make_ticket
from pipar_rpc.transport.gradient_sender import Delivered
from pipar_rpc.transport.server_port import Port
from tests.support.coding import GRADIENT, one_pair
from tests.support.handles import idle_handle


class Half:
    """One number, which the update makes one larger; it comes late, or ends with an error."""

    def __init__(self, error=None):
        self.number, self._error = torch.zeros(1), error

    def process(self, part, activation, labels, reply):
        reply(Result(GRADIENT, 0.0, 0))
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

    def names(self):
        return self.state().keys()

    def load(self, state):
        self.number = state["server"].clone()

    def clipped(self):
        return NOTHING


class Remote:
    """A device of one micro-batch an epoch."""

    lost = None

    def __init__(self, port):
        self._port = port

    def call(self, method, *args):
        result = Future()
        if method is Device.train:
            sent, labels = one_pair(), torch.zeros(1, dtype=torch.int64)
            ticket, trained = make_ticket(sent.gradient_bytes), torch.futures.Future()
            self._port.deliver(Delivered(0, Part(1, 0, 1, 1, 1.0), 0, sent, labels, WayBack(ticket), trained))
            trained.then(lambda _: result.set_result(RoundReport(iterations=1, samples=1, losses=[0.0])))
        else:
            result.set_result({"device": torch.ones(1)} if method is Device.upload else None)
        return result


def make_peer(number, half):
    port = Port(f"device{number}", half.process, Link(), Timeline())
    deadlines = Deadlines(DeadlineSpec(10.0, 10.0, 10.0))
    return DeviceHandle(port.name, Remote(port), port, half, Timeline(), deadlines, True, (1,), 1)


@pytest.fixture
def train(monkeypatch):
    """Trains an epoch, without its figures; returns the network after it and the devices that are left."""
    monkeypatch.setattr(EpochSums, "note", lambda *_: None)
    monkeypatch.setattr("torch.distributed.autograd.backward", lambda context_id, roots: None)

    def run(halves, in_turn):
        handles, networks = [make_peer(number, half) for number, half in enumerate(halves, start=1)], []
        coordinator, sums = Coordinator(Membership(handles), -1, in_turn), EpochSums(handles)
        for this in coordinator.rounds(Position(epoch=1)):
            networks.append(coordinator.average(coordinator.train(this, sums), sums))
        for handle in handles:
            handle.port.close()
        return networks[0], [handle.name for handle in handles if handle.present]

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


def test_a_device_takes_part_until_it_leaves_or_its_process_is_lost():
    """The group's word is enough: no call to it need fail first. It leaves once, for the group's reason."""
    told = []
    handles = [make_peer(number, Half()) for number in (1, 2, 3)]
    membership = Membership(handles, 1, {"device3": 1}, on_leave=lambda line, number: told.append(line))
    membership.begin_round()
    assert membership.handles == handles[:2]
    handles[1].remote.lost = "lost device2: connection reset"
    assert not handles[1].present
    assert membership.settle({handles[0]: "report", handles[1]: "report"}) == {handles[0]: "report"}
    assert membership.handles == handles[:1]
    assert told == [
        "device3 leaves in round 1: as fault.leave says; 2 of 3 devices left",
        "device2 leaves in round 1: lost device2: connection reset; 1 of 3 devices left",
    ]
    handles[0].remote.lost = "lost device1: connection reset"
    with pytest.raises(PeerError, match="the last to leave: device1: lost device1: connection reset"):
        membership.collect({handles[0]: Future()}, "upload")  # and nobody waits for it
    for handle in handles:
        handle.port.close()


def test_a_process_that_is_lost_takes_all_its_devices_with_it():
    """They were once lost one inside the other, which Python allows a few hundred times."""
    told = []
    handles = [idle_handle(number, 1) for number in range(1, 1201)]
    membership = Membership(handles, 200, on_leave=lambda line, number: told.append(line))
    for handle in handles[200:]:
        handle.remote.lost = "lost worker2: connection reset"
    with membership.watching(handles[700]):  # the first to be heard of
        raise LostError("lost worker2: connection reset")
    assert membership.handles == handles[:200]
    left = "200 of 1200 devices left"
    assert told == [f"device201 to device1200 leave in round 0: lost worker2: connection reset; {left}"]
    handles[0].remote.lost = handles[1].remote.lost = "lost worker1: connection reset"
    with pytest.raises(
        PeerError, match=r"198 of 1200 devices left.*the last to leave: device2: lost worker1"
    ):
        membership.ask(Device.clock)
    assert told[1].startswith("device1 to device2 leave")


@pytest.mark.parametrize(
    ("every", "first", "rounds"),
    [(-1, 0, [(0, 5, True)]), (0, 2, [(2, 7, True)]), (2, 0, [(0, 2, False), (2, 4, False), (4, 6, True)])],
)
def test_an_epoch_is_cut_into_rounds(every, first, rounds):
    handles = [make_peer(number, Half()) for number in (1, 2)]
    handles[1].iterations = 5
    found = list(Coordinator(Membership(handles), every, False).rounds(Position(3, first)))
    assert found == [Round(3, *expected) for expected in rounds]
    assert found[-1].next == Position(4, 0)
    assert [this.next for this in found[:-1]] == [Position(3, stop) for _, stop, _ in rounds[:-1]]
    for handle in handles:
        handle.port.close()


def test_the_rounds_of_an_epoch_follow_from_who_is_left():
    handles = [make_peer(number, Half()) for number in (1, 2)]
    handles[1].iterations = 5
    rounds = Coordinator(Membership(handles), 1, False).rounds(Position())
    assert not next(rounds).ends_epoch
    handles[1].remote.lost = "lost device2"
    assert list(rounds) == []
    for handle in handles:
        handle.port.close()


def test_a_pause_is_not_part_of_an_epoch(monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("pipar_rpc.coordination.epoch_result.time", clock)
    handle = make_peer(1, Half())
    sums = EpochSums([handle])
    stages = {Stage.DEVICE_FORWARD: Busy(0.5, 1)}
    sums.note(handle, RoundReport(iterations=1, samples=1, losses=[0.0], seconds=1.0, stages=stages))
    now[0] = 2.0
    with sums.paused():
        now[0] = 10.0
    now[0] = 11.0
    result = sums.result(None)
    assert (result.metrics.epoch_time_s, result.began) == (3.0, 0.0)
    handle.port.close()


def test_an_epoch_whose_longest_device_is_lost_in_a_round_is_evaluated_and_saved(monkeypatch):
    handles, saved = [make_peer(number, Half()) for number in (1, 2)], []
    handles[1].iterations = 2
    coordinator, other = Coordinator(Membership(handles), 1, False), MagicMock()
    other.saver.after_round = lambda position, *_: saved.append(position)
    monkeypatch.setattr(coordinator, "train", lambda *_: setattr(handles[1].remote, "lost", "lost device2"))
    monkeypatch.setattr(coordinator, "average", lambda *_: {})
    monkeypatch.setattr(TrainingLoop, "_end", lambda *_: other.ended)
    other.plan.settings.epochs, other.plan.settings.until = 1, {}
    shown = (other.progress, other.outputs, [])
    monkeypatch.setattr(TrainingLoop, "_report", lambda self, ended, last: self.rows.append(ended))
    monkeypatch.setattr(TrainingLoop, "_note_exposed", lambda *_: None)
    kept = (other.saver, other.best, Ledger([]))
    loop = TrainingLoop(0, other.plan, coordinator, None, other.evaluator, *kept, other.observer, *shown)
    loop.run(Position())
    assert loop.rows == [other.ended]
    assert saved == [Position(1, 1), Position(2, 0)]
    for handle in handles:
        handle.port.close()


def test_only_devices_that_have_trained_are_asked_for_the_state_of_their_optimisers():
    """And where they share a server half, all have the same tensors of it, which a file holds once."""

    class Asked:
        lost, asked = None, 0

        def call(self, method):
            assert method is Device.optimizer_state
            self.asked += 1
            result = Future()
            result.set_result({"0.weight/momentum": torch.ones(2)})
            return result

    handles = [make_peer(number, Half()) for number in (1, 2, 3)]
    for handle in handles:
        handle.remote = Asked()
        handle.half.optimizer_state = lambda: {"1.weight/momentum": torch.zeros(2)}
    handles[1].has_state = True
    coordinator = Coordinator(Membership(handles), -1, False)
    found = coordinator.optimizer_states(shared_half=False)
    assert [list(own) for own in found] == [[], ["0.weight/momentum", "1.weight/momentum"], []]
    found = coordinator.optimizer_states(shared_half=True)
    assert [len(own) for own in found] == [1, 2, 1]
    assert len({id(own["1.weight/momentum"]) for own in found}) == 1
    assert [handle.remote.asked for handle in handles] == [0, 2, 0]
    for handle in handles:
        handle.port.close()
