"""What becomes of a half's gradients between its backward passes and its optimiser: usually nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from torch import Tensor

from pipar_rpc.base.microbatch import Part

Count = Callable[[Tensor], float]


class Clipped(NamedTuple):
    """How many gradients were longer than they may be.

    Attributes:
        samples: gradients of single samples that were clipped.
        of: gradients of single samples.
    """

    samples: int = 0
    of: int = 0


NOTHING = Clipped()


class Gradients(Protocol):
    """The gradients of one half of one device's network."""

    def watched(self) -> AbstractContextManager[None]:
        """Surrounds the forward pass of a micro-batch."""

    def after(self, part: Part) -> None:
        """To be called after the backward pass of a micro-batch: adds to the gradients of the parameters."""

    def finish(self, part: Part) -> None:
        """To be called after the last micro-batch, before the optimiser's step."""

    def counting(self, count: Count) -> Count:
        """Returns the function that says how much counts in labels, checked where that matters."""

    def drain(self) -> Clipped:
        """Returns how many gradients were clipped since the last call."""


class PlainGradients:
    """Gradients as autograd leaves them."""

    def watched(self) -> AbstractContextManager[None]:
        """Does nothing."""
        return nullcontext()

    def after(self, part: Part) -> None:
        """Does nothing: autograd has added them."""

    def finish(self, part: Part) -> None:
        """Does nothing."""

    def counting(self, count: Count) -> Count:
        """Returns the function as it is."""
        return count

    def drain(self) -> Clipped:
        """Nothing is clipped."""
        return NOTHING


PLAIN = PlainGradients()


class CountedTogether:
    """The gradients of a device's first layers; what is clipped counts together with that of its last ones.

    Args:
        first: gradients of the first layers.
        last: gradients of the last layers, which these themselves surround, add and finish.
    """

    def __init__(self, first: Gradients, last: Gradients) -> None:
        self._first, self._last = first, last
        self.watched, self.after, self.finish = first.watched, first.after, first.finish
        self.counting = first.counting

    def drain(self) -> Clipped:
        """Returns the counts of both."""
        one, other = self._first.drain(), self._last.drain()
        return Clipped(one.samples + other.samples, one.of + other.of)
