"""Aggregation rules: what all of them keep, and one of the user's own."""

import inspect

import pytest
import torch

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.rules import RULES, RuleSpec, build_rule
from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.base.errors import UserError
from tests.support.configuration import plan
from tests.support.processes import ROOT
from tests.support.rules import SAMPLES, assert_equal, network, rounds, rule, states


def test_fedavg_is_the_weighted_average():
    made = rule("fedavg").aggregate(states(0)[0], states(1), SAMPLES)
    assert_equal(made, weighted_average(states(1), SAMPLES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_what_is_given_is_not_changed(name, dtype):
    used, before, given = rule(name, 4), states(0, 1, dtype)[0], states(1, 4, dtype)
    made = used.aggregate(before, given, (1, 2, 3, 4))
    kept = dict(used.state())
    copies = {key: own.clone() for key, own in kept.items()}
    used.aggregate(made, given, (1, 2, 3, 4))
    assert_equal(before, states(0, 1, dtype)[0])
    assert_equal(kept, copies)
    for first, second in zip(given, states(1, 4, dtype), strict=True):
        assert_equal(first, second)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_its_file_with_its_defaults(name):
    """Those in conf/aggregation/rule/ and in the class are the same."""
    parameters = inspect.signature(RULES[name]).parameters
    defaults = {key: own.default for key, own in parameters.items() if own.default is not own.empty}
    spec = plan(f"aggregation/rule={name}").settings.aggregation_rule
    assert spec == RuleSpec(name, None, defaults)


def own(name):
    return build_rule(RuleSpec(CUSTOM, f"{__name__}.{name}"), network(), 2)


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
    users = build_rule(RuleSpec(CUSTOM, target, {"beta": 0.5}), network(), 2)
    expected = rounds(rule("fedavgm", beta=0.5), (1, 2), states(0)[0])
    assert_equal(rounds(users, (1, 2), states(0)[0])[-1], expected[-1])


def test_a_rule_of_the_users_may_take_the_number_of_devices():
    target = "pipar_rpc.aggregation.rules.TrimmedMean"
    users = build_rule(RuleSpec(CUSTOM, target), network(), 5)
    expected = rule("trimmed_mean", 5).aggregate(None, states(1, 5), [1] * 5)
    assert_equal(users.aggregate(None, states(1, 5), [1] * 5), expected)
    with pytest.raises(UserError, match=r"of 3 devices 0\.25 drops none"):
        build_rule(RuleSpec(CUSTOM, target), network(), 3)


def test_the_rule_of_the_docs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    options = ("aggregation/rule=custom", "aggregation.rule._target_=own_aggregation_rule.Median")
    spec = plan(*options).settings.aggregation_rule
    three = states(1, count=3)
    made = build_rule(spec, network(), 3).aggregate(None, three, (1, 1, 1))
    for name, tensor in made.items():
        middle = torch.stack([state[name] for state in three]).sort(dim=0).values[1]
        assert torch.equal(tensor, middle)
