"""Symmetric uniform quantisation: one scale for each group of values, integers for the values."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""Smallest normal float32, 1.2e-38. With it a group of zeros needs no case of its own (0 / scale = 0), and
groups of subnormal numbers, whose own scale would be too coarse a number itself, keep the bound on errors."""


def group_length(sample: Sequence[int]) -> int:
    """Values that share a scale in a sample (or a weight) of this shape: those of one channel, at least 1.

    The first dimension is the channels. Flat samples are one group, and so are those whose channels have one
    value each, for which a scale each would cost more than the values.
    """
    channel = prod(sample[1:])
    return max(1, channel if channel > 1 else prod(sample))


def quantise(values: Tensor, limit: int, drawn: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scales and integers of groups of values x: scale = max |x| / limit, x is about scale * integer.

    A group with a number that is infinite or NaN gets a scale that is, so that all of it decodes to what is
    not finite, whatever its integers are.

    Args:
        values: float32 tensor of shape [groups, length], length >= 1.
        limit: largest integer, e.g. 127.
        drawn: random int16 per value, of which u in [-1/2, 1/2) is made for round(x / scale + u), whose mean
            is x / scale (to 2^-17); None to round to nearest, ties to even.

    Returns:
        Scales, float32 of shape [groups, 1], and integers in -limit..limit, int8 of shape [groups, length].
    """
    # Few calls matter more than few passes: other threads take Python's lock in between. (torch.aminmax takes
    # 15 times as long.)
    scales = values.abs().amax(1, keepdim=True).div_(limit).clamp_(min=SMALLEST_SCALE)
    quotients = values / scales
    if drawn is not None:
        quotients.add_(drawn, alpha=2.0**-16).clamp_(-limit, limit)
    return scales, quotients.round_().to(torch.int8)
