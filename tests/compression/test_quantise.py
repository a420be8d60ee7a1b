"""int8 and int4: bounds of errors, roundings, what the scales are."""

import pytest
import torch

from pipar_rpc.compression.int4 import GROUP, Int4
from pipar_rpc.compression.int8 import Int8
from pipar_rpc.compression.noise import Noise
from pipar_rpc.compression.quantise import group_length, quantise
from tests.support.codecs import values

NOISE = Noise(1, "test")
RELATIVE = 1 + 1e-4  # of a step: float32 has 2^-24 of up to 127 steps


def coded(codec, given, noise=NOISE):
    return codec.decode(codec.encode(given, noise), given.shape, given.dtype)


def scales8(given):
    """By the definition: per sample and channel, or per sample."""
    magnitudes = given.abs() / 127
    return magnitudes.amax(tuple(range(2 if given[0, 0].numel() > 1 else 1, given.dim())), keepdim=True)


def scales4(given):
    """By the definition: per 128 consecutive values of a sample."""
    parts = given.flatten(1).abs().split(GROUP, dim=1)
    return torch.cat([p.amax(1, keepdim=True).expand_as(p) / 7 for p in parts], dim=1).view(given.shape)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(4, 3, 9, 5), (5, 333), (3, 7, 1, 1), (2, 64, 3)], ids=str)
@pytest.mark.parametrize(("kind", "scales"), [(Int8, scales8), (Int4, scales4)])
def test_errors_are_at_most_half_a_step_to_nearest_and_one_at_random(kind, scales, shape, seed):
    given = values(*shape, seed=seed)
    step = scales(given)
    nearest, random = (coded(kind(role), given) for role in ("activations", "gradients"))
    assert ((nearest - given).abs() <= step * RELATIVE / 2).all()
    assert ((random - given).abs() <= step * RELATIVE).all()
    assert (random != nearest).any()
    for found in (nearest, random):
        assert (found.abs() <= given.abs().amax() * RELATIVE).all()


@pytest.mark.parametrize(("kind", "shape", "size"), [
    (Int8, (10, 32, 16, 16), 10 * (32 * 4 + 8192)),
    (Int8, (10, 128), 10 * (4 + 128)),
    (Int8, (10, 512, 1, 1), 10 * (4 + 512)),
    (Int8, (10,), 10 * (4 + 1)),
    (Int4, (10, 32, 16, 16), 10 * (64 * 4 + 4096)),
    (Int4, (10, 129), 10 * (2 * 4 + 65)),
    (Int4, (10,), 10 * (4 + 1)),
])  # fmt: skip
def test_bytes(kind, shape, size):
    assert kind("activations").num_bytes(shape, torch.float32) == size


def test_channels_of_one_value_share_a_scale():
    assert [group_length(sample) for sample in [(), (5,), (5, 1), (5, 2), (5, 2, 3), (0,), (4, 0)]] == [
        1, 5, 5, 2, 6, 1, 1
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_rounding_at_random_has_the_right_mean(kind):
    """Of 4,000 mini-batches' noise; the standard error is that of steps' fractions f: sqrt(f (1 - f))."""
    given = values(2, 3, 8)
    codec, draws = kind("gradients"), 4000
    found = torch.stack([coded(codec, given, Noise(0, "draw", number)) for number in range(draws)]).double()
    step = (scales8 if kind is Int8 else scales4)(given).double()
    fraction = (given / step).frac().abs()
    error = step * (fraction * (1 - fraction) / draws).sqrt()
    assert ((found.mean(0) - given).abs() <= 5 * error + step * 1e-4).all()
    assert (found.std(0) > 0).any()


@pytest.mark.parametrize("kind", [Int8, Int4])
@pytest.mark.parametrize("role", ["activations", "gradients"])
def test_constant_samples_come_back_exactly_up_to_the_scale(kind, role):
    given = torch.full((2, 3, 50), -0.3)
    torch.testing.assert_close(coded(kind(role), given), given, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [Int8, Int4])
@pytest.mark.parametrize("role", ["activations", "gradients"])
def test_integers_in_range_come_back_exactly_to_nearest_and_at_random(kind, role):
    """Where there is nothing to round, chance has no say: neither side of a value is favoured."""
    limit = 127 if kind is Int8 else 7
    given = (
        torch.arange(-limit, limit + 1.0).repeat(2, 1, 1)
        if kind is Int8
        else torch.arange(-7, 8.0).repeat(2, 1)
    )
    torch.testing.assert_close(coded(kind(role), given), given, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_subnormal_numbers_keep_the_bound(kind):
    """Their own scale would be 0 or a very coarse number: the smallest is the smallest normal number."""
    smallest = torch.finfo(torch.float32).tiny
    for magnitude in (1e-45, 2e-43, 1e-40, 3e-38):
        given = torch.tensor([[magnitude, -magnitude / 2, 0.0]])
        found = coded(kind("activations"), given)
        step = max(smallest, magnitude / (127 if kind is Int8 else 7))
        assert ((found - given).abs() <= step / 2 * RELATIVE).all()
        assert ((found - given).abs() <= given.abs().amax()).all()  # no integer is out of range, and wraps


@pytest.mark.parametrize("limit", [7, 127])
def test_no_draw_takes_the_largest_value_out_of_range(limit):
    """Rounded up once more it would wrap around and come back with the other sign."""
    largest = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    given = torch.cat([largest, largest, -largest, -largest], dim=1)
    drawn = torch.tensor([-(2**15), 2**15 - 1] * 2, dtype=torch.int16).expand(1000, 4)
    _, integers = quantise(given, limit, drawn)
    assert (integers.abs() <= limit).all()
    assert (integers.sign() == given.sign()).all()


def test_the_largest_numbers_stay_finite():
    largest = torch.finfo(torch.float32).max
    for codec in (Int8("activations"), Int8("gradients")):
        found = coded(codec, torch.tensor([[largest / 2, -largest / 2, 1.0]]))
        assert found.isfinite().all()


def test_numbers_that_float32_cannot_hold_are_not_finite():
    given = torch.tensor([[1e300, 1.0]], dtype=torch.float64)
    assert not coded(Int8("activations"), given).isfinite().any()


@pytest.mark.parametrize("kind", [Int8, Int4])
def test_activations_draw_nothing(kind):
    class Untouched(Noise):
        def integers(self, shape):
            raise AssertionError("drawn")

    coded(kind("activations"), values(2, 3, 4), Untouched(0))
    with pytest.raises(AssertionError, match="drawn"):
        coded(kind("gradients"), values(2, 3, 4), Untouched(0))


def test_a_channel_does_not_depend_on_others():
    given = values(2, 3, 8)
    changed = given.clone()
    changed[:, 1] *= 1000
    first, second = (coded(Int8("activations"), own) for own in (given, changed))
    assert torch.equal(first[:, 0], second[:, 0])
    assert torch.equal(first[:, 2], second[:, 2])
