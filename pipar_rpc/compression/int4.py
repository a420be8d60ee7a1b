"""Four-bit integers, with a scale for each group of 128 values."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipar_rpc.compression.codec import Role
from pipar_rpc.compression.noise import Noise
from pipar_rpc.compression.quantise import quantise

GROUP = 128
LIMIT = 7


class Int4:
    """Symmetric integers -7..7, two per byte: x is about scale * integer, scale = max |x| / 7.

    There is a float32 scale for each 128 consecutive values of a sample; its last group may be shorter.
    Activations are rounded to nearest, gradients at random without bias.

    Args:
        role: kind of values, which decides the rounding.
    """

    def __init__(self, role: Role) -> None:
        self._random = role == "gradients"

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Half a byte per value, rounded up for each sample, and four per scale."""
        _, groups, half = _sizes(shape)
        return int(shape[0]) * (4 * groups + half)

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """Scales, then integers: byte i of a sample has value i, and in its upper half value half + i."""
        length, groups, half = _sizes(values.shape)

        def grouped(flat: Tensor) -> Tensor:
            return _padded(flat.view(len(values), length), groups * GROUP).view(-1, GROUP)

        drawn = grouped(noise.integers(values.shape).to(values.device)) if self._random else None
        scales, integers = quantise(grouped(values.contiguous().float()), LIMIT, drawn)
        signed = integers.view(len(values), groups * GROUP)[:, :length]
        packed = _padded(signed[:, half:], half).bitwise_left_shift(4).bitwise_or_(signed[:, :half] & 0xF)
        payload = torch.empty(4 * len(scales) + packed.numel(), dtype=torch.uint8, device=values.device)
        payload[: 4 * len(scales)].view(torch.float32).copy_(scales.view(-1))
        payload[4 * len(scales) :].view(torch.int8).copy_(packed.view(-1))
        return payload

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Integers times scales."""
        length, groups, half = _sizes(shape)
        start = 4 * int(shape[0]) * groups
        packed = payload[start:].view(torch.int8).view(shape[0], half)
        values = torch.zeros(shape[0], groups * GROUP, device=payload.device)
        values[:, :half] = packed.bitwise_left_shift(4).bitwise_right_shift_(4)  # extends the sign
        values[:, half:length] = packed[:, : length - half].bitwise_right_shift(4)
        values.view(-1, GROUP).mul_(payload[:start].view(torch.float32).view(-1, 1))
        return values[:, :length].reshape(tuple(shape)).to(dtype)


def _sizes(shape: Sequence[int]) -> tuple[int, int, int]:
    """Values, groups and bytes of a sample."""
    length = prod(shape[1:])
    return length, -(-length // GROUP), -(-length // 2)


def _padded(rows: Tensor, length: int) -> Tensor:
    """Rows of this length, with zeros at their ends."""
    return pad(rows, (0, length - rows.shape[1])) if rows.shape[1] < length else rows
