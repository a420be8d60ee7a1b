"""Random numbers that belong to the samples of a mini-batch, however it is cut into micro-batches."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipar_rpc.base import random_streams


class Noise:
    """Random numbers for the samples of one mini-batch.

    What a sample gets depends on the seed, the stream's name, its number in the mini-batch and its shape,
    and on nothing else. Nothing is drawn before it is asked for, and asking twice gives the same numbers.

    Args:
        seed: the experiment's seed, >= 0.
        stream: purpose of the numbers, as for `random_streams.generator`: "gradients", device, iteration.
        first: number of the first sample in the mini-batch, from 0.
    """

    def __init__(self, seed: int, *stream: str | int, first: int = 0) -> None:
        self._seed, self._stream, self._first = seed, stream, first

    def at(self, first: int) -> "Noise":
        """The same noise, beginning with sample number `first` of the mini-batch, from 0."""
        return Noise(self._seed, *self._stream, first=first)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1) as a float32 CPU tensor of this shape, [b, *sample].

        They are those of samples first, ..., first + b - 1, multiples of 2^-24.
        """
        return self._drawn(shape, np.int32).bitwise_and_((1 << 24) - 1).float().mul_(2.0**-24)

    def integers(self, shape: Sequence[int]) -> Tensor:
        """Integers from -2^15 to 2^15 - 1, all equally likely: an int16 CPU tensor; as `uniform`, faster."""
        return self._drawn(shape, np.int16)

    def _drawn(self, shape: Sequence[int], kind: type[np.integer[Any]]) -> Tensor:
        length, in_word = math.prod(shape[1:]), 8 // np.dtype(kind).itemsize
        words = -(-length // in_word)  # of 64 bits: a sample begins with a new one
        bits = np.random.PCG64(random_streams.sequence(self._seed, *self._stream))
        bits.advance(self._first * words)
        drawn = bits.random_raw(shape[0] * words).view(kind).reshape(shape[0], in_word * words)
        return torch.from_numpy(np.ascontiguousarray(drawn[:, :length])).view(tuple(shape))
