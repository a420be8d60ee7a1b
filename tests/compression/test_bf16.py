"""bfloat16 against its definition."""

import pytest
import torch

from pipar_rpc.compression.bf16 import BF16
from pipar_rpc.compression.noise import Noise
from tests.support.codecs import values


def coded(given):
    codec = BF16()
    return codec.decode(codec.encode(given, Noise(0)), given.shape, given.dtype)


@pytest.mark.parametrize("seed", range(3))
def test_the_relative_error_is_at_most_one_in_256(seed):
    given = values(5, 7, 11, seed=seed)
    assert ((coded(given) - given).abs() <= given.abs() * 2**-8).all()


def test_ties_go_to_even():
    step = 2.0**-7  # between neighbours from 1 to 2
    given = torch.tensor([1 + step / 2, 1 + 3 * step / 2, 1 + 0.51 * step])
    assert torch.equal(coded(given), torch.tensor([1.0, 1 + 2 * step, 1 + step]))


def test_what_is_a_bfloat16_comes_back():
    given = torch.tensor([0.0, -0.0, 1.5, -3e38, float("inf"), 9.2e-41]).bfloat16().float()
    assert torch.equal(coded(given).view(torch.int32), given.view(torch.int32))
