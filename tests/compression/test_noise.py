"""Noise belongs to a sample of a mini-batch, and is uniform."""

import pytest
import torch

from pipar_rpc.compression.noise import Noise

SAMPLES = [(), (1,), (7,), (3, 5, 2), (4, 4), (0,)]


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
@pytest.mark.parametrize("parts", [1, 2, 3, 5, 10, 13])
def test_cutting_into_parts_does_not_change_it(sample, parts):
    noise = Noise(4, "gradients", 2, 17)
    whole = noise.uniform((10, *sample))
    found, first = [], 0
    for part in whole.tensor_split(parts):
        found.append(noise.at(first).uniform(part.shape))
        first += len(part)
    assert torch.equal(torch.cat(found), whole)
    assert (whole.dtype, whole.shape) == (torch.float32, (10, *sample))


def test_it_depends_on_seed_and_stream_and_is_the_same_twice():
    first = Noise(0, "a", 1).uniform((2, 3))
    assert torch.equal(first, Noise(0, "a", 1).uniform((2, 3)))
    for other in (Noise(1, "a", 1), Noise(0, "b", 1), Noise(0, "a", 2), Noise(0, "a", 1).at(1)):
        assert not torch.equal(first, other.uniform((2, 3)))


def test_asking_changes_nothing():
    noise = Noise(0)
    first = noise.uniform((2, 3))
    noise.at(1).uniform((4, 5))
    assert torch.equal(noise.uniform((2, 3)), first)
    assert torch.equal(noise.at(5).at(1).uniform((1, 3)), first[1:])


def test_it_is_uniform_from_0_to_below_1():
    drawn = Noise(7, "uniform").uniform((100, 1000)).double()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    deviation = 12**-0.5
    assert abs(drawn.mean() - 0.5) < 5 * deviation / 1e5**0.5
    assert abs(drawn.std() - deviation) < 0.005
    counts = torch.histc(drawn, 20, 0, 1)
    assert ((counts - 5000).abs() < 5 * 5000**0.5).all()
    neighbours = torch.corrcoef(torch.stack([drawn[:, :-1].flatten(), drawn[:, 1:].flatten()]))[0, 1]
    samples = torch.corrcoef(torch.stack([drawn[:-1].flatten(), drawn[1:].flatten()]))[0, 1]
    assert max(abs(neighbours), abs(samples)) < 5 / 1e5**0.5
