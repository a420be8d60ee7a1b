"""Codecs of floating-point numbers: as they are, or as the nearest bfloat16."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from pipar_rpc.compression.codec import from_bytes, to_bytes
from pipar_rpc.compression.noise import Noise


class Exact:
    """The values' own bytes."""

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """As `Codec.num_bytes`."""
        return prod(shape) * dtype.itemsize

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """A view of contiguous values."""
        return to_bytes(values)

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A view of the payload."""
        return from_bytes(payload, dtype).view(tuple(shape))


class BFloat16:
    """The nearest bfloat16 of every value, ties to even: 2 bytes, relative error at most 2^-9 + 2^-24."""

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """As `Codec.num_bytes`."""
        return 2 * prod(shape)

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """As `Codec.encode`."""
        return to_bytes(values.to(torch.bfloat16))

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `Codec.decode`."""
        return from_bytes(payload, torch.bfloat16).view(tuple(shape)).to(dtype)
