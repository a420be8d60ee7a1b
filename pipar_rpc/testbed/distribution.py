"""How devices differ from each other: factors that are drawn for each of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """A distribution of factors, as plain data.

    Attributes:
        name: key of `DISTRIBUTIONS`.
        numbers: its numbers: of "constant" the factor; of "uniform" the least and the largest; of "lognormal"
            the standard deviation of the logarithm, the median being 1; of "choice" the factors, each of
            which is as likely as any other.
    """

    name: str = "constant"
    numbers: tuple[float, ...] = (1.0,)

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Draws a factor for each of `count` devices; the first ones do not depend on how many there are."""
        return DISTRIBUTIONS[self.name](self.numbers, rng, count)


def _constant(numbers: tuple[float, ...], rng: np.random.Generator, count: int) -> Array:
    return np.full(count, numbers[0])


def _uniform(numbers: tuple[float, ...], rng: np.random.Generator, count: int) -> Array:
    return rng.uniform(numbers[0], numbers[1], size=count)


def _lognormal(numbers: tuple[float, ...], rng: np.random.Generator, count: int) -> Array:
    return np.exp(numbers[0] * rng.standard_normal(count))


def _choice(numbers: tuple[float, ...], rng: np.random.Generator, count: int) -> Array:
    return np.asarray(np.array(numbers)[(rng.random(count) * len(numbers)).astype(int)])


DISTRIBUTIONS: Mapping[str, Callable[[tuple[float, ...], np.random.Generator, int], Array]] = {
    "constant": _constant,
    "uniform": _uniform,
    "lognormal": _lognormal,
    "choice": _choice,
}
