"""Random numbers for codecs: the same for a sample, into however many micro-batches the mini-batch is cut."""

import zlib
from collections.abc import Sequence
from math import prod

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
        """Numbers in [0, 1) for shape[0] samples: float32 of that shape."""
        samples, count = shape[0], prod(shape[1:])
        words = -(
            -count // 2
        )  # draws of 64 bits, each good for two numbers, so that a sample begins with one
        key = [self._seed, *(zlib.crc32(w.encode()) if isinstance(w, str) else w for w in self._stream)]
        bits = np.random.PCG64(np.random.SeedSequence(key))
        bits.advance(self._first * words)
        numbers = np.random.Generator(bits).random((samples, 2 * words), dtype=np.float32)
        return torch.from_numpy(numbers)[:, :count].reshape(tuple(shape)).to(device)
