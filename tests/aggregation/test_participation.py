"""Who trains a round."""

import pytest

from pipar_rpc.aggregation.participation import ParticipationSpec, build_participation
from pipar_rpc.base.errors import UserError

DEVICES = range(1, 11)


def choices(spec, devices=DEVICES, rounds=200, seed=0):
    policy = build_participation(spec, seed, len(DEVICES))
    return [tuple(policy.choose(number, devices)) for number in range(1, rounds + 1)]


def test_by_default_all_train():
    assert ParticipationSpec().everyone
    assert set(choices(ParticipationSpec())) == {tuple(DEVICES)}


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 5), (0.25, 3), (0.24, 2), (0.01, 1), (1.0, 10)])
def test_a_share_is_rounded_and_at_least_one(fraction, count):
    assert {len(chosen) for chosen in choices(ParticipationSpec(fraction), rounds=20)} == {count}


def test_a_number_is_what_it_says_while_enough_are_there():
    spec = ParticipationSpec(per_round=3)
    assert {len(chosen) for chosen in choices(spec, rounds=20)} == {3}
    assert set(choices(spec, devices=(4, 7), rounds=5)) == {(4, 7)}
    assert not spec.everyone


def test_every_device_is_drawn_equally_often_and_in_ascending_order():
    """Each of 10 devices is expected in half of 400 rounds, with a deviation of 10."""
    drawn = choices(ParticipationSpec(0.5), rounds=400)
    counts = [sum(device in chosen for chosen in drawn) for device in DEVICES]
    assert all(150 < count < 250 for count in counts)
    assert len(set(drawn)) > 100
    assert all(list(chosen) == sorted(set(chosen)) for chosen in drawn)


def test_the_choice_follows_from_seed_and_round():
    spec = ParticipationSpec(0.5)
    assert choices(spec, rounds=10) == choices(spec, rounds=10)
    assert choices(spec, rounds=10) != choices(spec, rounds=10, seed=1)


def test_how_many_train_a_round():
    assert ParticipationSpec(0.5).most(4) == ParticipationSpec(per_round=2).most(4) == 2
    assert ParticipationSpec(per_round=9).most(4) == ParticipationSpec(target="x").most(4) == 4


class Odd:
    def __init__(self, num_devices, bad=None):
        self.num_devices, self.bad = num_devices, bad

    def choose(self, round, devices):
        if self.bad is not None:
            return self.bad
        return [device for device in reversed(devices) if device % 2 == round % 2]


def test_a_policy_of_the_users():
    assert choices(ParticipationSpec(target=f"{__name__}:Odd"), rounds=2) == [
        (1, 3, 5, 7, 9),
        (2, 4, 6, 8, 10),
    ]


@pytest.mark.parametrize("bad", [[], [11], [0], "x", [1.5, "y"]])
def test_a_wrong_choice_is_one_line(bad):
    policy = build_participation(ParticipationSpec(target=f"{__name__}:Odd", args={"bad": bad}), 0, 10)
    with pytest.raises(UserError, match=r"^participation\._target_=.*round 4[^\n]*$"):
        policy.choose(4, DEVICES)


@pytest.mark.parametrize("target", ["builtins.dict", "nowhere.Policy"])
def test_what_is_no_policy_is_one_line(target):
    with pytest.raises(UserError, match=r"^participation\._target_=.*must be[^\n]*$"):
        build_participation(ParticipationSpec(target=target), 0, 10)
