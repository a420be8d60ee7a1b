"""Accuracy of the whole network on held-out images."""

import torch
from torch import nn

from pipar_rpc.data import Images, Transform

BATCH_SIZE = 250


@torch.no_grad()
def accuracy(network: nn.Module, data: Images, transform: Transform, device: torch.device) -> float:
    """Share of the images classified correctly, 0..1, in evaluation mode.

    Args:
        network: the uncut network, on `device`.
        data: the images and labels.
        transform: its normalisation is applied, its augmentation is not.
        device: where to compute.
    """
    network.eval()
    correct = 0
    for images, labels in zip(data.images.split(BATCH_SIZE), data.labels.split(BATCH_SIZE), strict=True):
        logits = network(transform.normalise(images).to(device))
        correct += int((logits.argmax(dim=1).cpu() == labels).sum())
    return correct / len(data.labels)
