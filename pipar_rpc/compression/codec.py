"""What a codec is: values to bytes and back, for each sample by itself."""

from collections.abc import Sequence
from math import prod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pipar_rpc.compression.noise import Noise


@runtime_checkable
class Codec(Protocol):
    """Turns the values of b samples into a payload and back.

    Samples are coded independently of each other, so that the number of micro-batches does not matter.
    """

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Size of the payload of values of this shape, samples first, and element type."""
        ...

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """The payload.

        Args:
            values: shape [b, ...], without a gradient; must not be changed. Values that are not finite must
                be decoded as such in their sample, so that a device that diverges is noticed.
            noise: random numbers for each of these samples.

        Returns:
            uint8 of shape [num_bytes], on the values' device; may share their memory.
        """
        ...

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Values of this shape and element type, on the payload's device; may share its memory."""
        ...


def flat(values: Tensor) -> Tensor:
    """Values of shape [b, ...] as shape [b, n]."""
    return values.reshape(len(values), prod(values.shape[1:]))


def to_bytes(values: Tensor) -> Tensor:
    """The bytes of a tensor, uint8 of one dimension; they share its memory if it is contiguous."""
    return values.contiguous().view(-1).view(torch.uint8)


def from_bytes(payload: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as elements of a type, one dimension; they share memory if they are aligned."""
    aligned = payload.storage_offset() % dtype.itemsize == 0
    return (payload if aligned else payload.clone()).view(dtype)
