"""Label inference: from the direction of a sample's gradient to its label."""

import torch
from torch import Tensor
from torch.nn import functional as F


def infer_labels(known: Tensor, known_labels: Tensor, gradients: Tensor) -> Tensor:
    """Gives each gradient the label to whose known gradients it points most.

    The gradient attack of Liu, Lyu, Cui and Tao, "Similarity-based Label Inference Attack against Training
    and Inference of Split Learning" (arXiv:2203.05222), which compares gradients by their cosine with those
    of a few samples whose labels are known. For two classes, the direction attack of Li et al., "Label
    Leakage and Protection in Two-party Split Learning", ICLR 2022, rests on the same. Here the direction of
    a class is the mean of its known gradients, each of length 1.

    Args:
        known: gradients of samples with known labels, shape [m, ...].
        known_labels: their labels, int64 of shape [m].
        gradients: gradients of other samples, shape [n, ...].

    Returns:
        Labels, int64 of shape [n], of those that occur among the known ones.
    """
    classes = known_labels.unique()
    directions = F.normalize(known.flatten(1).double())
    means = torch.stack([directions[known_labels == label].mean(dim=0) for label in classes])
    cosines = F.normalize(gradients.flatten(1).double()) @ F.normalize(means).T
    found: Tensor = classes[cosines.argmax(dim=1)]
    return found


def some_of_each(labels: Tensor, count: int) -> Tensor:
    """Indices of the first `count` samples of each class, or of all that it has: int64, ascending."""
    chosen = [torch.nonzero(labels == label).flatten()[:count] for label in labels.unique()]
    return torch.cat(chosen).sort().values
