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
Draw = Callable[["_Source", int], Numbers]


class _Source:
    """Uniform numbers in the open interval (0, 1), multiples of 2^-53 shifted by half a step."""

    def __init__(self, sequence: np.random.SeedSequence | None) -> None:
        self._bits = None if sequence is None else np.random.PCG64(sequence)
        self.generator = None if self._bits is None else np.random.Generator(self._bits)

    def uniform(self, count: int) -> Numbers:
        """Draws `count` numbers."""
        words = (
            np.frombuffer(os.urandom(8 * count), dtype=np.uint64)
            if self._bits is None
            else self._bits.random_raw(count)
        )
        uniform: Numbers = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return uniform


def _gaussian(source: _Source, count: int) -> Numbers:
    if source.generator is not None:
        return source.generator.standard_normal(count)
    from scipy.special import ndtri  # here, because devices without secure noise do not need it

    drawn: Numbers = ndtri(source.uniform(count))
    return drawn


def _laplace(source: _Source, count: int) -> Numbers:
    centred = source.uniform(count) - 0.5
    drawn: Numbers = -np.sign(centred) * np.log1p(-2 * np.abs(centred))
    return drawn


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
        return self._drawn(_gaussian, shape, where)

    def gaussian_of_samples(self, shape: Sequence[int], first: int, *where: str | int) -> Tensor:
        """Draws as `gaussian` does, for each sample of its own, so that N does not change what is drawn.

        Args:
            shape: shape [b, ...] of the float64 CPU tensor.
            first: number of the first of the b samples within the mini-batch.
            where: further parts of the stream's name: epoch, iteration.
        """
        return self._of_samples(_gaussian, shape, first, where)

    def laplace_of_samples(self, shape: Sequence[int], first: int, *where: str | int) -> Tensor:
        """Draws numbers of the Laplace distribution with scale 1; arguments as of `gaussian_of_samples`."""
        return self._of_samples(_laplace, shape, first, where)

    def _of_samples(self, draw: Draw, shape: Sequence[int], first: int, where: Sequence[str | int]) -> Tensor:
        samples = [self._drawn(draw, shape[1:], (*where, first + index)) for index in range(shape[0])]
        return torch.stack(samples) if samples else torch.zeros(tuple(shape), dtype=torch.float64)

    def _drawn(self, draw: Draw, shape: Sequence[int], where: Sequence[str | int]) -> Tensor:
        sequence = (
            None if self._secure else random_streams.sequence(self._seed, "privacy", *self._stream, *where)
        )
        return torch.from_numpy(draw(_Source(sequence), math.prod(shape))).reshape(tuple(shape))
