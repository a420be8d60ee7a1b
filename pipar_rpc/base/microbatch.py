"""Cutting a mini-batch into micro-batches, and what each of them is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """The place of a micro-batch within its mini-batch.

    Attributes:
        epoch: number of the epoch, from 1.
        iteration: number of the mini-batch within the epoch, from 0.
        index: n, from 1 to `count`.
        count: N, the number of micro-batches of this mini-batch.
        weight: share of the mini-batch, |part| / |batch| where samples count alike. Losses are means over
            the part times this weight, so that the gradients of the N parts add up to the gradient of the
            mean loss over the whole batch.
        first: number of its first sample within the mini-batch, from 0.
        step: number of the mini-batch since the training began, from 0: the device's updates before it.
        whole: how much counts in the mini-batch: its samples, where these count alike.
    """

    epoch: int
    iteration: int
    index: int
    count: int
    weight: float
    first: int = 0
    step: int = 0
    whole: float = 1.0

    @property
    def is_last(self) -> bool:
        """True for the micro-batch after which both halves are updated."""
        return self.index == self.count


class MicroBatch(NamedTuple):
    """A part with its samples.

    Attributes:
        part: place within the mini-batch.
        images: the network's input, shape [b, ...].
        labels: shape [b, ...].
        counted: how much counts in it: what the mean of its loss divides by.
    """

    part: Part
    images: Tensor
    labels: Tensor
    counted: float


def most_micro_batches(batch_size: int, smallest: int) -> int:
    """The most micro-batches of a mini-batch: N is capped here and nowhere else.

    Args:
        batch_size: samples of the mini-batch.
        smallest: samples that a micro-batch has at least, if the mini-batch has that many.
    """
    return max(1, batch_size // smallest)


def split_batch(
    images: Tensor,
    labels: Tensor,
    num_micro_batches: int,
    epoch: int,
    iteration: int,
    smallest: int = 1,
    step: int = 0,
    count_of: Callable[[Tensor], float] = len,
) -> list[MicroBatch]:
    """Cuts a mini-batch into N micro-batches whose sizes differ by at most one sample; none is dropped.

    Args:
        images: shape [B, ...].
        labels: shape [B, ...].
        num_micro_batches: N; fewer where micro-batches would have less than `smallest` samples.
        epoch: number of the epoch, kept in each part.
        iteration: number of the mini-batch, kept in each part.
        smallest: samples that a micro-batch has at least, if the mini-batch has that many.
        step: number of mini-batches before, kept in each part.
        count_of: function that says how much counts in labels; by default, all samples alike.
    """
    count = min(num_micro_batches, most_micro_batches(len(labels), smallest))
    micro_batches, first, whole = [], 0, count_of(labels)
    parts = zip(torch.tensor_split(images, count), torch.tensor_split(labels, count), strict=True)
    for index, (x, y) in enumerate(parts, start=1):
        counted = count_of(y)
        weight = counted / whole if whole else 0.0
        part = Part(epoch, iteration, index, count, weight, first, step, whole)
        micro_batches.append(MicroBatch(part, x, y, counted))
        first += len(y)
    return micro_batches
