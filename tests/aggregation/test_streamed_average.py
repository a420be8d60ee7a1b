"""The average from what has come so far: the bits of a plain tree, whatever comes when."""

import weakref

import pytest
import torch

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.pieces import PIECE, SPAN
from pipar_rpc.aggregation.streamed_average import StreamedAverage
from pipar_rpc.base.random_streams import generator
from tests.support.rules import assert_equal

SHAPES = {"large": (3, SPAN // 2 + 7), "piece": (PIECE + 1,), "small": (5,), "number": (), "none": (0, 4)}
TYPES = {"piece": torch.float64, "small": torch.bfloat16}


def network(number):
    """Tensors of several types and sizes, one of which is not contiguous."""
    rng = generator(number, "test")
    made = {
        name: (torch.randn(shape, generator=rng) * 10.0 ** (number % 5)).to(TYPES.get(name))
        for name, shape in SHAPES.items()
    }
    across = torch.randn(40, 30, generator=rng).t()
    return made | {"across": across, "count": torch.tensor(number * 3 % 7), "flag": torch.tensor(number == 2)}


def by_hand(networks, samples):
    """Whole tensors, one addition after the other, as the tree has them."""
    count, shares = len(networks), [number / float(sum(samples)) for number in samples]

    def total(name, first, size):
        if size == 1:
            return networks[first][name].double() * shares[first]
        half = total(name, first, size // 2)
        return half + total(name, first + size // 2, size // 2) if first + size // 2 < count else half

    whole, average = 1 << (count - 1).bit_length(), {}
    for name, like in networks[0].items():
        if like.is_floating_point():
            average[name] = total(name, 0, whole).to(like.dtype)
        else:
            average[name] = torch.stack([own[name] for own in networks]).amax(dim=0)
    return average


def streamed(networks, samples, order):
    average = StreamedAverage([number / float(sum(samples)) for number in samples])
    for number in order:
        half = list(networks[number])[number % 5 :]  # in two parts
        average.add(number, {name: own for name, own in networks[number].items() if name not in half})
        average.add(number, {name: networks[number][name] for name in half})
    return average.result(networks[0])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_it_is_the_tree_of_whole_tensors_bit_for_bit(count):
    networks, samples = [network(k) for k in range(count)], [k % 3 for k in range(1, count + 1)]
    expected = by_hand(networks, samples)
    assert_equal(weighted_average(networks, samples), expected)
    for seed in range(3):
        order = torch.randperm(count, generator=generator(seed, "order")).tolist()
        assert_equal(streamed(networks, samples, order), expected)
    for given, again in zip(networks, (network(k) for k in range(count)), strict=True):
        assert_equal(given, again)


def test_networks_that_come_in_order_are_not_kept():
    """A tensor waits at most for its neighbour."""
    average, alive = StreamedAverage([1 / 16] * 16), []
    for number in range(16):
        tensor = torch.full((9,), float(number))
        alive.append(weakref.ref(tensor))
        average.add(number, {"a": tensor})
        del tensor
        assert sum(own() is not None for own in alive) <= 1
    assert average.result({"a": torch.empty(9)})["a"].tolist() == [7.5] * 9


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows_in_the_average_whatever_its_weight(wrong):
    networks = [{"a": torch.tensor([1.0, value])} for value in (1.0, wrong, -wrong)]
    for samples in ([1, 1, 1], [1, 0, 0], [3, 1, 0]):
        assert not streamed(networks, samples, range(3))["a"][1].isfinite()
