"""Samples that a process trains or evaluates on: read by their numbers, from memory, files or a data set."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipar_rpc.data.spec import Source, Split


class Samples(Protocol):
    """A device's part, or the validation or test samples."""

    def __len__(self) -> int:
        """Counts the samples."""

    def read(self, chosen: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reads some of the samples.

        Args:
            chosen: numbers of the samples, 0..n-1: int64 of shape [b].
            rng: generator of what a data set of the user's draws at random.

        Returns:
            Inputs, shape [b, ...], and labels, shape [b, ...]. Images are uint8 of shape [b, C, H, W]; a data
            set of the user's gives what goes into the network.
        """

    def class_counts(self) -> list[int]:
        """Counts the samples of each class, from 0 to the largest that there is; one number if none are."""


@dataclass(frozen=True)
class Images:
    """Samples in memory: `images` is uint8 of shape [n, C, H, W], `labels` int64 of shape [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, chosen: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Samples.read`."""
        return self.images[chosen], self.labels[chosen]

    def class_counts(self) -> list[int]:
        """See `Samples.class_counts`."""
        return torch.bincount(self.labels).tolist()


@dataclass(frozen=True)
class Files:
    """Samples whose images are decoded whenever they are read: `indices` of a split, with their `labels`."""

    source: Source
    split: Split
    indices: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, chosen: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Samples.read`."""
        return self.source.images(self.split, self.indices[chosen]), self.labels[chosen]

    def class_counts(self) -> list[int]:
        """See `Samples.class_counts`."""
        return torch.bincount(self.labels).tolist()
