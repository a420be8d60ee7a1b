"""The trimmed mean against plain loops, and what it does with few devices, integers and NaN."""

import logging
import math
import statistics

import pytest
import torch

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.base.errors import UserError
from tests.support.rules import assert_equal, rule, states

NAN, INF = math.nan, math.inf


def trimmed(values, dropped):
    ordered = sorted(values)
    for _ in range(dropped):
        ordered.remove(max(ordered))
        ordered.remove(min(ordered))
    return math.fsum(ordered) / len(ordered)


def aggregate(ratio, networks, samples=None, num_devices=None):
    used = rule("trimmed_mean", num_devices or len(networks), ratio=ratio)
    return used.aggregate(None, networks, samples or [1] * len(networks))


def of_numbers(values, ratio, dtype=torch.float64):
    """The trimmed mean of one number."""
    return aggregate(ratio, [{"w": torch.tensor([value], dtype=dtype)} for value in values])["w"]


@pytest.mark.parametrize(
    ("num_devices", "ratio", "dropped"),
    [(3, 0.34, 1), (4, 0.25, 1), (4, 0.49, 1), (5, 0.2, 1), (5, 0.39, 1), (7, 0.3, 2), (100, 0.29, 29)],
)
def test_it_equals_a_plain_loop_whatever_the_samples(num_devices, ratio, dropped):
    """0.29 * 100 is 28.999999999999996 in binary."""
    networks = states(0, num_devices, torch.float64)
    made = aggregate(ratio, networks, range(1, num_devices + 1))
    for key, own in made.items():
        for place, found in enumerate(own.flatten().tolist()):
            values = [network[key].flatten()[place].item() for network in networks]
            if key == "1.num_batches_tracked":
                assert found == sorted(values)[-1 - dropped]
            else:
                assert found == pytest.approx(trimmed(values, dropped), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("num_devices", [1, 2, 5])
def test_without_trimming_it_is_the_unweighted_mean(num_devices):
    networks = states(0, num_devices, torch.float64)
    made = aggregate(0, networks, range(1, num_devices + 1))
    expected = weighted_average(networks, [1] * num_devices)
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)


def test_just_below_half_it_is_the_median_of_an_odd_number():
    values = [4.0, -1.5, 9.0, 0.25, 3.0]
    assert of_numbers(values, 0.4999).item() == statistics.median(values)


def test_the_mean_is_computed_in_double_precision():
    networks = states(0, 7)
    found = aggregate(0.2, networks)["0.weight"]
    columns = zip(*(network["0.weight"].flatten().tolist() for network in networks), strict=True)
    exact = torch.tensor([trimmed(values, 1) for values in columns], dtype=torch.float64)
    assert torch.equal(found.flatten(), exact.float())


def test_one_device_that_is_far_off_moves_nothing_beyond_the_others():
    networks = states(0, 4)
    far = {key: torch.full_like(own, 2**30) for key, own in networks[0].items()}
    made = aggregate(0.25, [*networks[1:], far])
    for key, own in made.items():
        others = torch.stack([network[key] for network in networks[1:]])
        assert (own >= others.amin(dim=0)).all(), key
        assert (own <= others.amax(dim=0)).all(), key


def test_the_order_of_the_devices_does_not_matter():
    networks = states(0, 7)
    assert_equal(aggregate(0.2, networks), aggregate(0.2, networks[::-1]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 4.0, NAN], 3.0),
        ([NAN, 2.0, 4.0, NAN], NAN),
        ([NAN, 2.0, 4.0, INF], INF),
        ([-INF, 2.0, 4.0, INF], 3.0),
        ([-INF, -INF, 4.0, 5.0], -INF),
    ],
)
def test_nan_counts_as_larger_than_any_number(values, expected):
    assert of_numbers(values, 0.25).item() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [(torch.int64, [3, 9, 5, 2**60], 9), (torch.bool, [True, False, False, False], False)],
)
def test_integers_take_the_largest_that_is_not_dropped(dtype, values, expected):
    made = of_numbers(values, 0.25, dtype)
    assert made.dtype == dtype
    assert made.item() == expected


def test_devices_that_processed_nothing_are_left_out():
    networks = states(0, 6)
    made = aggregate(0.25, networks, [1, 0, 3, 1, 0, 1])
    assert_equal(made, aggregate(0.25, [networks[k] for k in (0, 2, 3, 5)]))


def test_when_none_is_left_to_drop_the_log_says_so_once(caplog):
    networks, used = states(0, 4), rule("trimmed_mean", 4)
    with caplog.at_level(logging.WARNING):
        used.aggregate(None, networks, [1] * 4)
        assert not caplog.messages
        for _ in range(2):
            made = used.aggregate(None, networks[:3], [1] * 3)
    assert_equal(made, aggregate(0, networks[:3]))
    assert caplog.messages == [
        "aggregation.rule.args.ratio=0.25 drops none of the 3 networks that trained in a round"
    ]


def test_of_the_mean_the_log_says_nothing(caplog):
    aggregate(0, states(0, 2))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("num_devices", "ratio", "allowed"),
    [
        (4, 0.5, "0 or more and below 0.5"),
        (4, -0.1, "0 or more and below 0.5"),
        (4, "half", "0 or more and below 0.5"),
        (4, 0.1, "0, or 1/4 or more and below 0.5 (of 4 devices 0.1 drops none)"),
        (3, 0.3333, "0, or 1/3 or more and below 0.5 (of 3 devices 0.3333 drops none)"),
        (2, 0.4, "0 (of 2 devices 0.4 drops none)"),
    ],
)
def test_a_ratio_that_is_out_of_range_or_drops_none_is_one_line(num_devices, ratio, allowed):
    with pytest.raises(UserError) as error:
        rule("trimmed_mean", num_devices, ratio=ratio)
    assert str(error.value) == f"aggregation.rule.args.ratio={ratio}: must be {allowed}"


def test_a_rule_without_memory_has_no_state():
    assert rule("trimmed_mean", 4).state() == {}
