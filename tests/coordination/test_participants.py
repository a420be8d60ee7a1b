"""Who is asked to train a round, with devices that have little to train or are lost."""

from types import SimpleNamespace

import pytest
import torch

from pipar_rpc.aggregation.fedavg import FedAvg
from pipar_rpc.base.errors import UserError
from pipar_rpc.coordination.aggregation import Aggregator
from pipar_rpc.coordination.coordinator import Coordinator, Trained
from pipar_rpc.coordination.epoch_result import EpochSums
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.participants import Participants
from pipar_rpc.coordination.rounds import Round
from tests.support.handles import idle_handle

FIRST, LAST = Round(1, 0, 2, ends_epoch=False), Round(1, 2, 4, ends_epoch=True)


class Listed:
    """Chooses what a list says, and notes who was there."""

    def __init__(self, *rounds):
        self.rounds, self.asked = rounds, []

    def choose(self, round, devices):
        self.asked.append((round, list(devices)))
        if round > len(self.rounds):
            raise UserError("no such round")
        return [device for device in self.rounds[round - 1] if device in devices]


def participants(policy, *iterations):
    handles = [idle_handle(number, length) for number, length in enumerate(iterations, start=1)]
    membership = Membership(handles)
    membership.round = 1
    return Participants(membership, policy), membership, handles


def test_a_policy_is_asked_once_for_each_round():
    policy = Listed([1, 3], [2])
    asking, membership, handles = participants(policy, 4, 4, 4)
    assert asking.of(FIRST) == [handles[0], handles[2]]
    assert asking.of_next(FIRST) == [handles[1]]
    membership.round = 2
    assert asking.of(LAST) == [handles[1]]
    assert policy.asked == [(1, [1, 2, 3]), (2, [1, 2, 3])]


def test_a_round_that_never_comes_is_no_matter():
    asking, membership, _ = participants(Listed([1]), 4)
    asking.of(FIRST)
    assert asking.of_next(FIRST) == []
    membership.round = 2
    with pytest.raises(UserError, match="no such round"):
        asking.of(LAST)


def test_devices_without_iterations_left_are_not_chosen():
    policy = Listed([1, 2], [1, 2], [1, 2])
    asking, membership, handles = participants(policy, 4, 2)
    assert asking.of(FIRST) == handles
    assert asking.of_next(FIRST) == [handles[0]]  # from iteration 2 on
    membership.round = 2
    assert asking.of_next(LAST) == handles  # a new epoch


def test_another_is_chosen_in_place_of_a_lost_one():
    class Last:
        def choose(self, round, devices):
            return [devices[-1]]

    asking, _, handles = participants(Last(), 4, 4)
    assert asking.of_next(FIRST) == [handles[1]]
    handles[1].left = True
    assert asking.of_next(FIRST) == [handles[0]]


def test_a_round_of_which_all_are_lost_leaves_the_network_as_it_is(monkeypatch):
    _, membership, handles = participants(Listed([1]), 4, 4)
    before = {"weight": torch.ones(2)}
    coordinator = Coordinator(membership, 1, False, aggregator=Aggregator(FedAvg(), before))
    monkeypatch.setattr(
        coordinator, "_transfer", SimpleNamespace(distribute=lambda _, network, *__: (network, {}))
    )
    handles[0].left = True
    trained = Trained(FIRST, {}, {handles[0]: None})
    assert torch.equal(coordinator.average(trained, EpochSums(handles))["weight"], before["weight"])
