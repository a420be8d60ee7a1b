"""DP-FedAvg against its definition by hand, below every rule that takes an average."""

import copy

import pytest
import torch
from scipy import stats
from torch import nn

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.rules import RuleSpec, build_rule
from pipar_rpc.coordination.aggregation import Aggregator
from pipar_rpc.privacy.noise import PrivacyNoise
from pipar_rpc.privacy.spec import NO_PRIVACY, PrivacySpec, UpdateNoiseSpec
from pipar_rpc.privacy.updates import names_of, protected
from pipar_rpc.timing.timeline import Timeline
from tests.support.loops import assert_close
from tests.support.rules import assert_equal

RULES = {
    "fedavg": {},
    "fedavgm": {"beta": 0.5, "lr": 0.7},
    "fedadam": {"eta": 0.1},
    "fedyogi": {"eta": 0.1},
}


class Net(nn.Module):
    """A frozen layer, a buffer, and a parameter with two names."""

    def __init__(self):
        super().__init__()
        self.frozen, self.first, self.second = nn.Linear(2, 2), nn.Linear(3, 4), nn.Linear(3, 4)
        self.frozen.requires_grad_(False)
        self.second.weight = self.first.weight
        self.register_buffer("mask", torch.ones(2))


TRAINED = ("first.weight", "first.bias", "second.bias")


def network():
    torch.manual_seed(0)
    return Net().double()


def devices(seed, count=3):
    """Networks that differ from the global one by updates of different lengths; two names keep one value."""
    torch.manual_seed(seed)
    found = []
    for number in range(count):
        own = {name: value + (number + 0.5) * torch.randn_like(value) for name, value in start().items()}
        found.append(own | {"second.weight": own["first.weight"]})
    return found


def start():
    return network().state_dict()


def clipped_mean(before, networks, max_norm, number):
    """The average without noise, by hand."""
    changes = []
    for own in networks:
        update = torch.cat([(own[name] - before[name]).flatten() for name in TRAINED])
        changes.append(update * min(1.0, max_norm / float(update.norm())))
    mean = (torch.stack(changes).sum(0) / number).split([before[name].numel() for name in TRAINED])
    moved = {n: before[n] + own.view_as(before[n]) for n, own in zip(TRAINED, mean, strict=True)}
    return before | moved | {"second.weight": moved["first.weight"]}


def make(name="fedavg", max_norm=3.0, noise=0.0, number=3, seen=None, secure=False):
    rule = build_rule(RuleSpec(name, None, RULES[name]), network(), number)
    privacy = PrivacySpec(updates=UpdateNoiseSpec(max_norm, noise), secure_noise=secure)
    told = (lambda *counts: None) if seen is None else lambda *counts: seen.append(counts)
    return protected(rule, privacy, 5, network(), number, told)


@pytest.mark.parametrize("name", RULES)
def test_rules_get_the_clipped_average(name):
    """Several rounds, so that a rule's moments count; the samples of devices do not."""
    seen = []
    found, expected = Aggregator(make(name, seen=seen), start()), start()
    plain = build_rule(RuleSpec(name, None, RULES[name]), network(), 3)
    for number in range(3):
        average = clipped_mean(expected, devices(number), 3.0, 3)
        expected = plain.aggregate(expected, [average], [1])
        assert_close(found.aggregate(devices(number), [1, 5, 2], Timeline()), expected, 1e-9)
    assert seen[0] == (2, 3)
    for name in ("frozen.weight", "mask"):
        assert torch.equal(found.network[name], start()[name])


def test_without_noise_and_clipping_it_is_the_average():
    average = make(max_norm=1e30).aggregate(start(), devices(0), [1, 1, 1])
    expected = weighted_average(devices(0), [1, 1, 1])
    assert_close({n: average[n] for n in TRAINED}, {n: expected[n] for n in TRAINED}, 1e-9)


def test_a_lost_device_leaves_the_denominator():
    found = make(number=3).aggregate(start(), devices(0)[:2], [1, 1])
    assert_close(found, clipped_mean(start(), devices(0)[:2], 3.0, 3), 1e-9)


def test_one_device_moves_the_average_by_the_norm_at_most():
    rule, others = make(max_norm=0.5), devices(0)
    far = {name: value * 1e6 for name, value in others[2].items()}
    without, with_it = (
        rule.aggregate(start(), networks, [1] * 3) for networks in (others[:2], [*others[:2], far])
    )
    moved = torch.cat([(with_it[name] - without[name]).flatten() for name in TRAINED])
    assert float(moved.norm()) == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("secure", [False, True])
def test_noise_has_its_standard_deviation(secure):
    """z C / m, independent for each number, and the same for both names of a parameter."""
    torch.manual_seed(0)
    large = nn.Linear(100, 100)
    privacy = PrivacySpec(updates=UpdateNoiseSpec(0.25, 2.0), secure_noise=secure)
    rule = build_rule(RuleSpec(), large, 4)
    state = large.state_dict()
    rule = protected(rule, privacy, 0, large, 4, lambda *_: None)
    first, second = (rule.aggregate(state, [state], [1])["weight"] - state["weight"] for _ in range(2))
    assert stats.kstest(first.flatten().numpy(), "norm", (0, 2.0 * 0.25 / 4)).pvalue > (
        1e-6 if secure else 0.01
    )
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.05
    tied = make(noise=1.0).aggregate(start(), devices(0), [1, 1, 1])
    assert torch.equal(tied["first.weight"], tied["second.weight"])


def test_noise_is_named_by_round_and_parameter():
    rule, before = make(noise=2.0), start()
    rule.aggregate(before, devices(0), [1, 1, 1])
    found, source = rule.aggregate(before, devices(0), [1, 1, 1]), PrivacyNoise(5, False, "updates")
    expected = clipped_mean(before, devices(0), 3.0, 3)
    for name in TRAINED:
        noise = source.gaussian(before[name].shape, 1, name) * 2.0 * 3.0 / 3
        torch.testing.assert_close(found[name], expected[name] + noise, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_it_goes_on_from_its_state(name):
    whole, first, second = (make(name, noise=1.0) for _ in range(3))
    one, two = Aggregator(whole, start()), Aggregator(first, start())
    for number in range(2):
        one.aggregate(devices(number), [1] * 3, Timeline())
        two.aggregate(devices(number), [1] * 3, Timeline())
    second.load(copy.deepcopy(first.state()))
    resumed = Aggregator(second, two.network)
    one.aggregate(devices(2), [1] * 3, Timeline())
    assert_equal(resumed.aggregate(devices(2), [1] * 3, Timeline()), one.network)
    assert_equal(second.state(), whole.state())


def test_without_the_mechanism_the_rule_is_as_it_is():
    rule = build_rule(RuleSpec(), network(), 3)
    assert protected(rule, NO_PRIVACY, 0, network(), 3, lambda *_: None) is rule


def test_trained_parameters_are_known_by_all_their_names():
    assert names_of(Net()) == {
        "first.weight": "first.weight",
        "first.bias": "first.bias",
        "second.weight": "first.weight",
        "second.bias": "second.bias",
    }
