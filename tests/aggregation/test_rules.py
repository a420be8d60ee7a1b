"""Aggregation rules: each against its formula, and one of the user's own."""

import pytest
import torch
from torch import nn

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.rules import CUSTOM, FedAvg, RuleSpec, build_rule
from pipar_rpc.base.errors import UserError
from pipar_rpc.coordination.aggregation import Aggregator
from pipar_rpc.timing.timeline import Timeline
from tests.support.configuration import plan
from tests.support.processes import ROOT

BETA, LR = 0.5, 0.75
SAMPLES = (3, 1)


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def states(seed, count=2):
    """Of networks of which no two numbers are equal."""
    torch.manual_seed(seed)
    found = [
        {name: torch.randn(own.shape).to(own.dtype) for name, own in network().state_dict().items()}
        for _ in range(count)
    ]
    return [state | {"1.num_batches_tracked": torch.tensor(number)} for number, state in enumerate(found)]


def rounds(rule, numbers, before):
    """Aggregates these rounds one after the other."""
    aggregator = Aggregator(rule, before)
    return [aggregator.aggregate(states(number), SAMPLES, Timeline()) for number in numbers]


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, own in first.items():
        assert torch.equal(own, second[name]), name


def momentum(**args):
    return build_rule(RuleSpec("fedavgm", None, args), network())


def test_fedavg_is_the_weighted_average():
    made = FedAvg().aggregate(states(0)[0], states(1), SAMPLES)
    assert_equal(made, weighted_average(states(1), SAMPLES))


def test_fedavgm_moves_parameters_and_averages_the_rest():
    before = states(0)[0]
    first, second = rounds(momentum(beta=BETA, lr=LR), (1, 2), before)
    averages = [weighted_average(states(number), SAMPLES) for number in (1, 2)]
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        v = averages[0][name] - before[name]
        torch.testing.assert_close(first[name], before[name] + LR * v)
        v = BETA * v + averages[1][name] - first[name]
        torch.testing.assert_close(second[name], first[name] + LR * v)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(second[name], averages[1][name])


def test_fedavgm_without_momentum_is_fedavg():
    for made, number in zip(rounds(momentum(beta=0), (1, 2, 3), states(0)[0]), (1, 2, 3), strict=True):
        assert_equal(made, weighted_average(states(number), SAMPLES))


def test_the_first_round_without_a_global_network_is_an_average():
    assert_equal(rounds(momentum(), (1,), None)[0], weighted_average(states(1), SAMPLES))


def test_a_rule_goes_on_from_its_state():
    before = states(0)[0]
    whole = rounds(momentum(), (1, 2, 3), before)
    first, second = momentum(), momentum()
    (one,) = rounds(first, (1,), before)
    second.load(first.state())
    assert_equal(rounds(second, (2, 3), one)[-1], whole[-1])


def test_frozen_parameters_have_no_momentum():
    frozen = network()
    frozen[0].weight.requires_grad_(False)
    rule = build_rule(RuleSpec("fedavgm"), frozen)
    rounds(rule, (1, 2), states(0)[0])
    assert rule.state().keys() == {"0.bias", "1.weight", "1.bias"}


def test_what_is_given_is_not_changed():
    before, given, seen = states(0)[0], states(1), states(1)
    momentum().aggregate(before, given, SAMPLES)
    assert_equal(before, states(0)[0])
    for first, second in zip(given, seen, strict=True):
        assert_equal(first, second)


def own(name):
    return build_rule(RuleSpec(CUSTOM, f"{__name__}.{name}"), network())


class Wrong:
    def __init__(self, made):
        self.aggregate = lambda *_: made

    def state(self):
        return {}

    def load(self, state):
        pass


def nothing():
    return Wrong({})


def other_shapes():
    return Wrong({name: own[None] for name, own in states(0)[0].items()})


def one_more():
    return Wrong(states(0)[0] | {"more": torch.ones(1)})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing", "nothing failed: KeyError: '0.weight'"),
        ("other_shapes", "other_shapes: must return the tensors of a network: 0.weight is not"),
        ("one_more", "one_more: must return the tensors of a network: more is not"),
    ],
)
def test_a_wrong_rule_of_the_users_is_one_line(name, line):
    with pytest.raises(UserError) as error:
        own(name).aggregate(None, states(1), SAMPLES)
    assert str(error.value) == f"aggregation.rule._target_={__name__}.{line}"


@pytest.mark.parametrize(
    ("name", "line"), [("network", "with the methods aggregate, state and load"), ("none", "can import")]
)
def test_what_is_no_rule(name, line):
    with pytest.raises(UserError, match=line):
        own(name)


def test_a_rule_of_the_users_may_take_arguments_and_the_names_of_parameters():
    target = "pipar_rpc.aggregation.rules.FedAvgM"
    rule = build_rule(RuleSpec(CUSTOM, target, {"beta": BETA}), network())
    expected = rounds(momentum(beta=BETA), (1, 2), states(0)[0])
    assert_equal(rounds(rule, (1, 2), states(0)[0])[-1], expected[-1])


def test_the_rule_of_the_docs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    options = ("aggregation/rule=custom", "aggregation.rule._target_=own_aggregation_rule.Median")
    spec = plan(*options).settings.aggregation_rule
    three = states(1, count=3)
    made = build_rule(spec, network()).aggregate(None, three, (1, 1, 1))
    for name, tensor in made.items():
        middle = torch.stack([state[name] for state in three]).sort(dim=0).values[1]
        assert torch.equal(tensor, middle)
