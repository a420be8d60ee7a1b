"""Optimisers on the server: each against its formula, number by number."""

import math

import pytest
import torch

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.base.errors import UserError
from pipar_rpc.checkpoints.file import CheckpointFolder
from tests.support.checkpoints import make
from tests.support.rules import BUFFERS, PARAMETERS, SAMPLES, assert_equal, network, rounds, rule, states

ARGS = {
    "fedavgm": {"beta": 0.5, "lr": 0.75},
    "fedadam": {"eta": 0.3, "beta1": 0.6, "beta2": 0.7, "tau": 0.5},
    "fedyogi": {"eta": 0.3, "beta1": 0.6, "beta2": 0.7, "tau": 0.5},
}
ROUNDS = (1, 2, 3, 4)


def momentum(w, changes_to, beta, lr):
    v = 0.0
    for mean in changes_to:
        v = beta * v + (mean - w)
        w += lr * v
        yield w


def adam(w, changes_to, eta, beta1, beta2, tau):
    m, v = 0.0, tau**2
    for mean in changes_to:
        m = beta1 * m + (1 - beta1) * (mean - w)
        v = beta2 * v + (1 - beta2) * (mean - w) ** 2
        w += eta * m / (math.sqrt(v) + tau)
        yield w


def yogi(w, changes_to, eta, beta1, beta2, tau):
    m, v = 0.0, tau**2
    for mean in changes_to:
        square = (mean - w) ** 2
        m = beta1 * m + (1 - beta1) * (mean - w)
        v = v + (1 - beta2) * square if v < square else v - (1 - beta2) * square
        w += eta * m / (math.sqrt(v) + tau)
        yield w


PLAIN = {"fedavgm": momentum, "fedadam": adam, "fedyogi": yogi}


@pytest.mark.parametrize("name", ARGS)
def test_it_equals_its_formula_number_by_number(name):
    before = states(0, 1, torch.float64)[0]
    made = rounds(rule(name, **ARGS[name]), ROUNDS, before, torch.float64)
    given = [states(number, 2, torch.float64) for number in ROUNDS]
    for key in PARAMETERS:
        for place, w in enumerate(before[key].flatten().tolist()):
            own = [[state[key].flatten()[place].item() for state in networks] for networks in given]
            means = [(3 * first + second) / 4 for first, second in own]
            expected = list(PLAIN[name](w, means, **ARGS[name]))
            found = [network[key].flatten()[place].item() for network in made]
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    for number, found in zip(ROUNDS, made, strict=True):
        average = weighted_average(states(number, 2, torch.float64), SAMPLES)
        assert_equal({key: found[key] for key in BUFFERS}, {key: average[key] for key in BUFFERS})


def test_fedavgm_without_momentum_is_fedavg():
    made = rounds(rule("fedavgm", beta=0), ROUNDS, states(0)[0])
    for found, number in zip(made, ROUNDS, strict=True):
        assert_equal(found, weighted_average(states(number), SAMPLES))


def test_fedyogi_with_tau_far_above_the_changes_is_fedavg():
    """v stays tau^2; sqrt(v) + tau = 2 tau = eta."""
    made = rounds(rule("fedyogi", beta1=0, tau=1e12, eta=2e12), ROUNDS, states(0)[0])
    for found, number in zip(made, ROUNDS, strict=True):
        torch.testing.assert_close(found, weighted_average(states(number), SAMPLES))


def test_fedadam_without_memory_moves_by_the_sign_of_large_changes():
    before = states(0)[0]
    made = rule("fedadam", eta=0.5, beta1=0, beta2=0, tau=1e-9).aggregate(before, states(1), SAMPLES)
    average = weighted_average(states(1), SAMPLES)
    for key in PARAMETERS:
        torch.testing.assert_close(made[key], before[key] + 0.5 * (average[key] - before[key]).sign())


@pytest.mark.parametrize(("name", "left"), [("fedadam", 0.99), ("fedyogi", 1)])
def test_where_nothing_changes_the_network_stays(name, left):
    """Yogi's second moment does too."""
    used, before = rule(name), states(0)[0]
    assert_equal(used.aggregate(before, [before, before], SAMPLES), before)
    for key, own in used.state().items():
        expected = torch.full_like(own, left * 1e-6 if key.startswith("v.") else 0)
        torch.testing.assert_close(own, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ARGS)
def test_the_first_round_without_a_global_network_is_an_average(name):
    used = rule(name)
    assert_equal(used.aggregate(None, states(1), SAMPLES), weighted_average(states(1), SAMPLES))
    assert used.state() == {}


@pytest.mark.parametrize("name", ARGS)
def test_it_goes_on_from_a_checkpoint_bit_for_bit(name, tmp_path):
    before = states(0)[0]
    whole = rounds(rule(name, **ARGS[name]), ROUNDS, before)
    first, second, forgetful = (rule(name, **ARGS[name]) for _ in range(3))
    *_, middle = rounds(first, ROUNDS[:2], before)
    folder = CheckpointFolder(tmp_path)
    folder.save(make(2, rule=dict(first.state())))
    second.load(folder.latest().rule)
    assert_equal(rounds(second, ROUNDS[2:], middle)[-1], whole[-1])
    assert_equal(second.state(), rounds_state(name, before))
    assert not torch.equal(rounds(forgetful, ROUNDS[2:], middle)[-1]["0.weight"], whole[-1]["0.weight"])


def rounds_state(name, before):
    used = rule(name, **ARGS[name])
    rounds(used, ROUNDS, before)
    return used.state()


@pytest.mark.parametrize(("name", "prefixes"), [("fedavgm", [""]), ("fedadam", ["m.", "v."])])
def test_frozen_parameters_have_no_moments_and_are_averaged(name, prefixes):
    frozen = network()
    frozen[0].weight.requires_grad_(False)
    used = rule(name, of=frozen)
    made = rounds(used, (1, 2), states(0)[0])
    trained = [key for key in PARAMETERS if key != "0.weight"]
    assert used.state().keys() == {prefix + key for prefix in prefixes for key in trained}
    assert torch.equal(made[-1]["0.weight"], weighted_average(states(2), SAMPLES)["0.weight"])


def test_moments_of_half_precision_are_float32():
    """In float16, tau^2 = 1e-6 would be 5 % off."""
    used, before = rule("fedyogi"), states(0, 1, torch.float16)[0]
    made = used.aggregate(before, [before, before], SAMPLES)
    assert made["0.weight"].dtype == torch.float16
    kept = used.state()["v.0.weight"]
    torch.testing.assert_close(kept, torch.full((2, 3), 1e-6), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "args", "line"),
    [
        ("fedavgm", {"beta": 1}, "beta=1: must be 0 or more and below 1"),
        ("fedavgm", {"lr": 0}, "lr=0: must be > 0"),
        ("fedadam", {"eta": 0}, "eta=0: must be > 0"),
        ("fedadam", {"eta": float("inf")}, "eta=inf: must be > 0"),
        ("fedadam", {"beta1": 1}, "beta1=1: must be 0 or more and below 1"),
        ("fedyogi", {"beta1": True}, "beta1=True: must be 0 or more and below 1"),
        ("fedyogi", {"beta2": -0.1}, "beta2=-0.1: must be 0 or more and below 1"),
        ("fedyogi", {"tau": 0}, "tau=0: must be > 0"),
        ("fedadam", {"tau": "small"}, "tau=small: must be > 0"),
        ("fedadam", {"eta": None}, "eta=null: must be > 0"),
        ("fedadam", {"lr": 1}, "lr: no such argument of fedadam: (one of beta1, beta2, eta, tau)"),
    ],
)
def test_what_is_out_of_range_is_one_line(name, args, line):
    with pytest.raises(UserError) as error:
        rule(name, **args)
    assert str(error.value) == f"aggregation.rule.args.{line}"
