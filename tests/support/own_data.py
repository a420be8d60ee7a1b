"""Data sets as users write them."""

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
SIZES = {"train": 48, "test": 40}


def regression(split: str) -> list[Pair]:
    """Vectors of five numbers, whose labels are a number each."""
    rng = torch.Generator().manual_seed(len(split))
    values = torch.randn(SIZES[split], 5, generator=rng)
    return [(own, own.square().sum()) for own in values]


class Sequences(list[Pair]):
    """Tokens, and those that follow."""

    classes = ("a", "b", "c", "d", "e")


def tokens(split: str) -> Sequences:
    rng = torch.Generator().manual_seed(len(split))
    drawn = torch.randint(5, (SIZES[split], 7), generator=rng)
    return Sequences((own[:-1], own[1:]) for own in drawn)


def images(split: str) -> list[tuple[Tensor, int]]:
    """Noisy images of two classes: the noise is drawn from torch's global generator at every look."""
    return Drawn((torch.full((3, 8, 8), float(index % 2)), index % 2) for index in range(SIZES[split]))


class Drawn(list[tuple[Tensor, int]]):
    """A list that adds noise to what is read."""

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        image, label = super().__getitem__(index)
        return image + torch.randn(image.shape), label
