"""Codecs of small integers, symmetric around zero: value = scale * code, one scale for a group of values.

With q codes on each side, scale = amax / q, amax being the largest magnitude of the group, and

    code = round(value / scale)           nearest, ties to even: an error of at most scale / 2
    code = floor(value / scale + u)       stochastic, u uniform in [0, 1): the error's mean is zero

(Jacob et al., CVPR 2018; Gupta et al., ICML 2015; QSGD, Alistarh et al., NeurIPS 2017.) A group with a value
that is not finite has a scale that is not finite, and is decoded so.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from pipar_rpc.compression.codec import flat, from_bytes, to_bytes
from pipar_rpc.compression.noise import Noise

SCALE = torch.float32


class Int8:
    """One byte for a value; a scale for each channel of a sample, or for a sample without channels.

    Args:
        stochastic: whether codes are rounded stochastically.
    """

    LARGEST = 127

    def __init__(self, stochastic: bool = False) -> None:
        self._stochastic = stochastic

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """As `Codec.num_bytes`."""
        return prod(shape) + SCALE.itemsize * _groups(shape)[0]

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """As `Codec.encode`."""
        rows = values.reshape(_groups(values.shape))
        scales = scales_of(rows, self.LARGEST)
        drawn = noise.uniform(values.shape, values.device).view(rows.shape) if self._stochastic else None
        payload = rows.new_empty(self.num_bytes(values.shape, values.dtype), dtype=torch.uint8)
        end = SCALE.itemsize * len(rows)
        payload[:end].view(SCALE).copy_(scales)
        payload[end:].view(torch.int8).view(rows.shape).copy_(codes_of(rows, scales, self.LARGEST, drawn))
        return payload

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `Codec.decode`."""
        groups = _groups(shape)
        end = SCALE.itemsize * groups[0]
        scales = from_bytes(payload[:end], SCALE).to(dtype)
        return (payload[end:].view(torch.int8).view(groups) * scales[:, None]).view(tuple(shape))


class Int4:
    """Half a byte for a value; a scale for each 128 consecutive values of a sample.

    Args:
        stochastic: whether codes are rounded stochastically.
    """

    LARGEST, GROUP = 7, 128

    def __init__(self, stochastic: bool = False) -> None:
        self._stochastic = stochastic

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """As `Codec.num_bytes`."""
        count = prod(shape[1:])
        return shape[0] * (SCALE.itemsize * -(-count // self.GROUP) + -(-count // 2))

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """As `Codec.encode`."""
        groups, count = self._grouped(flat(values)), prod(values.shape[1:])
        scales = scales_of(groups, self.LARGEST)
        drawn = noise.uniform(values.shape, values.device) if self._stochastic else None
        drawn = None if drawn is None else self._grouped(flat(drawn))
        codes = codes_of(groups, scales, self.LARGEST, drawn).add_(self.LARGEST + 1).to(torch.uint8)
        codes = codes.view(len(values), -1)[:, : count + count % 2]
        pairs = codes[:, 0::2] | codes[:, 1::2] << 4
        return torch.cat([to_bytes(scales), to_bytes(pairs)])

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `Codec.decode`."""
        samples, count = shape[0], prod(shape[1:])
        end = SCALE.itemsize * samples * -(-count // self.GROUP)
        scales = from_bytes(payload[:end], SCALE).to(dtype)
        pairs = payload[end:].view(samples, -(-count // 2))
        codes = torch.stack([pairs & 15, pairs >> 4], dim=2).view(samples, -1).to(torch.int8)
        values = self._grouped(codes.sub_(self.LARGEST + 1)) * scales[:, None]
        return values.view(samples, -1)[:, :count].reshape(tuple(shape))

    def _grouped(self, rows: Tensor) -> Tensor:
        """Rows of shape [b, n] as groups of 128, the last one of each row filled up with zeros."""
        return F.pad(rows, (0, -rows.shape[1] % self.GROUP)).view(-1, self.GROUP)


def scales_of(rows: Tensor, largest: int) -> Tensor:
    """The scale of each row: float32 of shape [r]."""
    if not rows.numel():
        return rows.new_zeros(len(rows), dtype=SCALE)
    low, high = torch.aminmax(rows, dim=1)
    return (torch.maximum(high, -low) / largest).to(SCALE)


def codes_of(rows: Tensor, scales: Tensor, largest: int, drawn: Tensor | None) -> Tensor:
    """The codes as whole numbers in the rows' own type.

    Args:
        rows: values of shape [r, n].
        scales: scale of each row.
        largest: magnitude of the largest code.
        drawn: uniform numbers of the rows' shape, to round stochastically; None to round to the nearest.
    """
    divisors = torch.where(scales == 0, 1, scales).to(rows.dtype)  # all codes of such a row are zero
    codes = rows / divisors[:, None]
    codes = codes.round_() if drawn is None else codes.add_(drawn).floor_()
    return codes.clamp_(-largest, largest)


def _groups(shape: Sequence[int]) -> tuple[int, int]:
    """How many scales there are, and for how many values each."""
    if len(shape) > 2:
        return shape[0] * shape[1], prod(shape[2:])
    return shape[0], prod(shape[1:])
