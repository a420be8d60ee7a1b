"""Averages of models, by hand."""

import pytest
import torch

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.base.random_streams import generator


def test_weighted_average_by_hand():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(5)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(9)},
        {"w": torch.tensor([5.0, -2.0]), "n": torch.tensor(2)},
    ]
    mean = weighted_average(states, [1, 1, 2])
    assert torch.equal(mean["w"], torch.tensor([3.5, 1.0]))  # (1 + 3 + 2*5)/4, (2 + 6 - 2*2)/4
    assert torch.equal(mean["n"], torch.tensor(9))
    assert mean["w"].dtype == torch.float32
    assert mean["n"].dtype == torch.int64


def test_average_of_equal_states_is_that_state():
    state = {"w": torch.randn(1000, generator=generator(0, "test"))}
    assert torch.equal(weighted_average([state] * 3, [7, 11, 13])["w"], state["w"])


def test_a_device_without_samples_does_not_count():
    states = [{"w": torch.ones(1)}, {"w": torch.full((1,), 7.0)}]
    assert weighted_average(states, [5, 0])["w"].item() == 1


@pytest.mark.parametrize("weights", [[], [1], [0, 0], [2, -1]])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        weighted_average([{"w": torch.ones(1)}] * 2, weights)


def test_states_with_other_keys_are_refused():
    with pytest.raises(ValueError, match="bias"):
        weighted_average([{"w": torch.ones(1)}, {"bias": torch.ones(1)}], [1, 1])
