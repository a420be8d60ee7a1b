"""Eight-bit integers, with a scale for each channel of each sample."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from pipar_rpc.compression.codec import Role
from pipar_rpc.compression.noise import Noise
from pipar_rpc.compression.quantise import group_length, quantise

LIMIT = 127


class Int8:
    """Symmetric integers -127..127: x is about scale * integer, scale = max |x| / 127.

    There is a float32 scale for each channel of each sample, or for each sample if samples are flat.
    Activations are rounded to nearest, gradients at random without bias.

    Args:
        role: kind of values, which decides the rounding.
    """

    def __init__(self, role: Role) -> None:
        self._random = role == "gradients"

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """One byte per value, four per scale."""
        return prod(shape) + _scale_bytes(shape)

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """Scales, then integers."""
        grouped = values.reshape(-1, group_length(values.shape[1:])).float()
        drawn = noise.integers(values.shape).to(values.device).view_as(grouped) if self._random else None
        scales, integers = quantise(grouped, LIMIT, drawn)
        return torch.cat([scales.view(-1).view(torch.uint8), integers.view(-1).view(torch.uint8)])

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Integers times scales."""
        start = _scale_bytes(shape)
        scales = payload[:start].view(torch.float32).view(-1, 1)
        integers = payload[start:].view(torch.int8).view(-1, group_length(shape[1:]))
        return (integers * scales).view(tuple(shape)).to(dtype)


def _scale_bytes(shape: Sequence[int]) -> int:
    return 4 * (prod(shape) // group_length(shape[1:]))
