"""Cutting a mini-batch into micro-batches, and what each of them is called."""

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
        weight: |part| / |batch|. Losses are means over the part times this weight, so that the gradients
            of the N parts add up to the gradient of the mean loss over the whole batch.
        first: number of its first sample within the mini-batch, from 0.
    """

    epoch: int
    iteration: int
    index: int
    count: int
    weight: float
    first: int = 0

    @property
    def is_last(self) -> bool:
        """True for the micro-batch after which both halves are updated."""
        return self.index == self.count


class MicroBatch(NamedTuple):
    """A part with its samples: `images` of shape [b, C, H, W] and `labels` of shape [b]."""

    part: Part
    images: Tensor
    labels: Tensor


def most_micro_batches(batch_size: int, smallest: int) -> int:
    """The most micro-batches of a mini-batch: N is capped here and nowhere else.

    Args:
        batch_size: samples of the mini-batch.
        smallest: samples that a micro-batch has at least, if the mini-batch has that many.
    """
    return max(1, batch_size // smallest)


def split_batch(
    images: Tensor, labels: Tensor, num_micro_batches: int, epoch: int, iteration: int, smallest: int = 1
) -> list[MicroBatch]:
    """Cuts a mini-batch into N micro-batches whose sizes differ by at most one sample; none is dropped.

    Args:
        images: shape [B, ...].
        labels: shape [B].
        num_micro_batches: N; fewer where micro-batches would have less than `smallest` samples.
        epoch: number of the epoch, kept in each part.
        iteration: number of the mini-batch, kept in each part.
        smallest: samples that a micro-batch has at least, if the mini-batch has that many.
    """
    batch_size = len(labels)
    count = min(num_micro_batches, most_micro_batches(batch_size, smallest))
    micro_batches, first = [], 0
    parts = zip(torch.tensor_split(images, count), torch.tensor_split(labels, count), strict=True)
    for index, (x, y) in enumerate(parts, start=1):
        part = Part(epoch, iteration, index, count, len(y) / batch_size, first)
        micro_batches.append(MicroBatch(part, x, y))
        first += len(y)
    return micro_batches
