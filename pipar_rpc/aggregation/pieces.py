"""Tensors that are computed piece by piece on all cores: a piece's steps stay in a core's cache.

Whole tensors of a large network go through memory again at each step, which is what an average's time is.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

from pipar_rpc.base.cores import on_cores

PIECE = 1 << 15  # numbers of a step: 256 KB in double precision
SPAN = 1 << 18  # numbers that one core is given at a time

Make = Callable[[slice], Tensor]


class _Span(NamedTuple):
    """A part of a tensor that one core fills."""

    flat: Tensor
    make: Make
    start: int


def fill(tensors: Iterable[tuple[Tensor, Make]]) -> None:
    """Fills tensors.

    Args:
        tensors: contiguous tensors, each with a function that makes the numbers of a piece of it: a slice of
            the tensor in one dimension. Another type of numbers is rounded to the tensor's.
    """
    spans = [
        _Span(tensor.view(-1), make, start)
        for tensor, make in tensors
        for start in range(0, tensor.numel(), SPAN)
    ]
    on_cores(_fill, spans, sum(len(span.flat) for span in spans if not span.start))


def _fill(span: _Span) -> None:
    end = min(span.start + SPAN, len(span.flat))
    for start in range(span.start, end, PIECE):
        piece = slice(start, min(start + PIECE, end))
        span.flat[piece] = span.make(piece)
