"""The noise of privacy mechanisms, from generators that nothing else draws from.

With a seed it is the same in every run, so that results can be repeated: for research, because whoever knows
the seed can take the noise away. Secure noise comes from the system's generator of random bytes.
"""

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipar_rpc.base import random_streams

Numbers = NDArray[np.float64]
Words = NDArray[np.uint64]
BLOCK = 4096  # numbers that are computed at a time: they stay in the cache, and the allocator has such pieces


class _Gaussian:
    """Standard normal numbers by Box and Muller (1958): r cos(a) and r sin(a), r = sqrt(-2 log u).

    u has 53 bits, so that no tail is missing below 8.5 standard deviations; the angle a has 24, as many as
    the networks' float32. It takes half the time of NumPy's ziggurat, and so many words for each sample that
    a generator finds any sample without drawing those before it.
    """

    @staticmethod
    def words(length: int) -> int:
        pairs = -(-length // 2)
        return pairs + -(-pairs // 2)

    @staticmethod
    def fill(words: Words, out: Numbers) -> None:
        """Turns the words of one sample into its numbers."""
        length = len(out)
        pairs = -(-length // 2)
        bits = words[pairs:].view(np.uint32)
        for begin in range(0, pairs, BLOCK):
            end = min(begin + BLOCK, pairs)
            radii = np.sqrt(-2 * np.log(_uniform(words[begin:end])))
            angles = bits[begin:end].astype(np.float32) * np.float32(2 * math.pi * 2.0**-32)
            out[begin:end] = radii * np.cos(angles)
            second = min(pairs + end, length)
            out[pairs + begin : second] = (radii * np.sin(angles))[: second - pairs - begin]


class _Laplace:
    """Numbers of the Laplace distribution with scale 1: the logarithm of a uniform number, with a sign."""

    @staticmethod
    def words(length: int) -> int:
        return length

    @staticmethod
    def fill(words: Words, out: Numbers) -> None:
        """Turns the words of one sample into its numbers."""
        for begin in range(0, len(out), BLOCK):
            centred = _uniform(words[begin : begin + BLOCK]) - 0.5
            out[begin : begin + BLOCK] = -np.sign(centred) * np.log1p(-2 * np.abs(centred))


Distribution = type[_Gaussian] | type[_Laplace]


def _uniform(words: Words) -> Numbers:
    """Uniform numbers in the open interval (0, 1), multiples of 2^-53 shifted by half a step."""
    uniform: Numbers = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return uniform


class PrivacyNoise:
    """Noise of one mechanism on one half.

    Args:
        seed: seed of the experiment, >= 0.
        secure: whether the system's entropy takes the seed's place.
        stream: purpose of the numbers, as of `random_streams.generator`: mechanism, half, device.
    """

    def __init__(self, seed: int, secure: bool, *stream: str | int) -> None:
        self._seed, self._secure, self._stream = seed, secure, stream

    def gaussian(self, shape: Sequence[int], *where: str | int) -> Tensor:
        """Draws standard normal numbers.

        Args:
            shape: shape of the float64 CPU tensor.
            where: further parts of the stream's name: epoch, iteration, parameter.
        """
        return self._drawn(_Gaussian, (1, *shape), 0, where)[0]

    def gaussian_of_samples(self, shape: Sequence[int], first: int, *where: str | int) -> Tensor:
        """Draws as `gaussian` does, for each sample of its own, so that N does not change what is drawn.

        Args:
            shape: shape [b, ...] of the float64 CPU tensor.
            first: number of the first of the b samples within the mini-batch.
            where: further parts of the stream's name: epoch, iteration.
        """
        return self._drawn(_Gaussian, shape, first, where)

    def laplace_of_samples(self, shape: Sequence[int], first: int, *where: str | int) -> Tensor:
        """Draws numbers of the Laplace distribution with scale 1; arguments as of `gaussian_of_samples`."""
        return self._drawn(_Laplace, shape, first, where)

    def _drawn(
        self, distribution: Distribution, shape: Sequence[int], first: int, where: Sequence[str | int]
    ) -> Tensor:
        count, length = shape[0], math.prod(shape[1:])
        needed = distribution.words(length)  # of 64 bits, for each sample
        drawn, words = np.empty((count, length)), self._words(first * needed, where)
        for sample in drawn:
            distribution.fill(words(needed), sample)
        return torch.from_numpy(drawn).reshape(tuple(shape))

    def _words(self, after: int, where: Sequence[str | int]) -> Callable[[int], Words]:
        """Returns a function that draws so many random words at a time, after others that are left out."""
        if self._secure:
            return lambda count: np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
        bits = np.random.PCG64(random_streams.sequence(self._seed, "privacy", *self._stream, *where))
        bits.advance(after)
        return bits.random_raw
