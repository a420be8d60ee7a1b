"""Codecs of small integers, symmetric around zero: value = scale * code, one scale for a group of values.

With q codes on each side, scale = amax / q, amax being the largest magnitude of the group, and

    code = round(value / scale)           nearest, ties to even: an error of at most scale / 2
    code = round(value / scale + u)       stochastic, u uniform in [-1/2, 1/2): the error's mean is zero

(Jacob et al., CVPR 2018; Gupta et al., ICML 2015; QSGD, Alistarh et al., NeurIPS 2017.) A group with a value
that is not finite has a scale that is not finite, and is decoded so.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from pipar_rpc.compression.codec import flat, to_bytes
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
        """The scales, then the codes."""
        groups = _groups(values.shape)
        drawn = noise.integers(values.shape, values.device).view(groups) if self._stochastic else None
        scales, codes = quantise(values.reshape(groups), self.LARGEST, drawn)
        return torch.cat([to_bytes(scales), to_bytes(codes)])

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `Codec.decode`."""
        groups = _groups(shape)
        end = SCALE.itemsize * groups[0]
        scales = payload[:end].view(SCALE).to(dtype).view(-1, 1)
        return (payload[end:].view(torch.int8).view(groups) * scales).view(tuple(shape))


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
        """The scales, then the codes in pairs, the first one in the lower half of a byte."""
        samples, count = len(values), prod(values.shape[1:])
        drawn = noise.integers(values.shape, values.device) if self._stochastic else None
        drawn = None if drawn is None else self._grouped(flat(drawn))
        scales, codes = quantise(self._grouped(flat(values)), self.LARGEST, drawn)
        halves = codes.add_(self.LARGEST + 1).view(torch.uint8).view(samples, -1)[:, : count + count % 2]
        return torch.cat([to_bytes(scales), to_bytes(halves[:, 0::2] | halves[:, 1::2] << 4)])

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `Codec.decode`."""
        samples, count = shape[0], prod(shape[1:])
        end = SCALE.itemsize * samples * -(-count // self.GROUP)
        scales = payload[:end].view(SCALE).to(dtype).view(-1, 1)
        pairs = payload[end:].view(samples, -(-count // 2))
        halves = torch.stack([pairs & 15, pairs >> 4], dim=2).view(samples, 2 * pairs.shape[1])
        values = self._grouped(halves.to(torch.int8).sub_(self.LARGEST + 1)) * scales
        return values.view(samples, -(-count // self.GROUP) * self.GROUP)[:, :count].reshape(tuple(shape))

    def _grouped(self, rows: Tensor) -> Tensor:
        """Rows of shape [b, n] as groups of 128, the last one of each row filled up with zeros."""
        return F.pad(rows, (0, -rows.shape[1] % self.GROUP)).view(-1, self.GROUP)


def quantise(rows: Tensor, largest: int, drawn: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scales and codes of groups of values.

    Args:
        rows: values of shape [r, n].
        largest: magnitude of the largest code.
        drawn: random int16 numbers of the rows' shape, to round stochastically; None to round to the nearest.

    Returns:
        Scales, float32 of shape [r, 1], and codes, int8 of the rows' shape.
    """
    if not rows.numel():
        return rows.new_ones(len(rows), 1, dtype=SCALE), rows.to(torch.int8)
    # The smallest normal number instead of 0: with it, zeros need no case of their own, and tiny values
    # keep the bound on errors. Few calls matter more than few passes over the values: other threads take
    # Python's lock in between.
    scales = rows.abs().amax(dim=1, keepdim=True).div_(largest).to(SCALE).clamp_(min=torch.finfo(SCALE).tiny)
    codes = rows / scales
    if drawn is not None:
        codes.add_(drawn, alpha=2.0**-16).clamp_(-largest, largest)
    return scales, codes.round_().to(torch.int8)


def _groups(shape: Sequence[int]) -> tuple[int, int]:
    """How many scales there are, and for how many values each."""
    if prod(shape[2:]) > 1:
        return shape[0] * shape[1], prod(shape[2:])
    return shape[0], prod(shape[1:])  # of channels with one value each, scales would take more than codes
