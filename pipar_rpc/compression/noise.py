"""Random numbers for codecs: the same for a sample, into however many micro-batches the mini-batch is cut."""

import zlib
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Random numbers of the samples of a mini-batch, from one of them on.

    What a sample gets depends on the seed, the stream, its number in the mini-batch and its shape alone.
    Nothing is drawn before it is asked for.

    Args:
        seed: seed of the experiment.
        stream: what the numbers are for, as in `random_streams.generator`.
        first: number of the first sample, from 0.
    """

    def __init__(self, seed: int, *stream: str | int, first: int = 0) -> None:
        self._seed, self._stream, self._first = seed, stream, first

    def at(self, first: int) -> "Noise":
        """The same noise from sample `first` on."""
        return Noise(self._seed, *self._stream, first=first)

    def uniform(self, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Numbers in [0, 1), multiples of 2^-24, for shape[0] samples: float32 of that shape."""
        return self._drawn(shape, np.int32, device).bitwise_and_((1 << 24) - 1).float().mul_(2.0**-24)

    def integers(self, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Integers for shape[0] samples, all 2^16 values being equally likely: int16 of that shape."""
        return self._drawn(shape, np.int16, device)

    def _drawn(
        self, shape: Sequence[int], kind: type[np.integer[Any]], device: torch.device | None
    ) -> Tensor:
        """Random integers; all values of their type are equally likely."""
        samples, count = shape[0], prod(shape[1:])
        in_word = 8 // np.dtype(kind).itemsize
        words = -(-count // in_word)  # of 64 bits: a sample begins with a whole one
        key = [self._seed, *(zlib.crc32(w.encode()) if isinstance(w, str) else w for w in self._stream)]
        bits = np.random.PCG64(np.random.SeedSequence(key))
        bits.advance(self._first * words)
        drawn = bits.random_raw(samples * words).view(kind).reshape(samples, in_word * words)
        return torch.from_numpy(drawn[:, :count].reshape(tuple(shape))).to(device)
