"""Accuracy of the whole network on held-out images."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from pipar_rpc.base.states import State
from pipar_rpc.data import Images, Transform

BATCH_SIZE = 250


def _ignore(samples: int) -> None:
    pass


@torch.no_grad()
def accuracy(
    network: nn.Module,
    data: Images,
    transform: Transform,
    device: torch.device,
    on_batch: Callable[[int], None] = _ignore,
) -> float:
    """Returns the share of the images that are classified correctly, 0..1, in evaluation mode.

    Args:
        network: the uncut network, on `device`.
        data: the images and labels.
        transform: preprocessing, of which the normalisation is applied and the augmentation is not.
        device: torch device that computes.
        on_batch: function called with the number of samples after each batch, for displays.
    """
    network.eval()
    correct = 0
    for images, labels in zip(data.images.split(BATCH_SIZE), data.labels.split(BATCH_SIZE), strict=True):
        logits = network(transform.normalise(images).to(device))
        correct += int((logits.argmax(dim=1).cpu() == labels).sum())
        on_batch(len(labels))
    return correct / len(data.labels)


class Evaluator:
    """Measures networks on fixed sets of images.

    Args:
        network: network of the right architecture, whose weights are overwritten.
        sets: images by name, e.g. {"val": ..., "test": ...}.
        transform: conversion of stored images to network input.
        device: torch device that computes.
        on_batch: function called with the number of samples after each batch, for displays.
    """

    def __init__(
        self,
        network: nn.Module,
        sets: Mapping[str, Images],
        transform: Transform,
        device: torch.device,
        on_batch: Callable[[int], None] = _ignore,
    ) -> None:
        self._network = network.to(device)
        self._sets, self._transform, self._device, self._on_batch = sets, transform, device, on_batch

    def num_samples(self, *names: str) -> int:
        """Counts the images in the sets of these names."""
        return sum(len(self._sets[name].labels) for name in names if name in self._sets)

    def measure(self, state: State, name: str) -> float | None:
        """Accuracy of a network with these weights on the set `name`; None if there is no such set."""
        if name not in self._sets:
            return None
        self._network.load_state_dict(state)
        return accuracy(self._network, self._sets[name], self._transform, self._device, self._on_batch)
