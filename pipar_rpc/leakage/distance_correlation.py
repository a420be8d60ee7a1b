"""Distance correlation of Szekely, Rizzo and Bakirov: how much two sets of vectors depend on each other."""

import torch
from torch import Tensor


def distance_correlation(x: Tensor, y: Tensor) -> float:
    """The empirical distance correlation of n pairs of vectors, 0..1, in double precision.

    Definitions 4 and 5 of Szekely, Rizzo and Bakirov, "Measuring and testing dependence by correlation of
    distances", Annals of Statistics 35(6), 2007, equations 2.8 to 2.10, with Euclidean distances:

        A_kl = a_kl - mean_l a_kl - mean_k a_kl + mean a,   a_kl = |x_k - x_l|,   B likewise from y
        R_n^2 = sum A_kl B_kl / sqrt(sum A_kl^2 sum B_kl^2)

    This is the R_n with which NoPeek measures leakage (Vepakomma, Singh, Gupta and Raskar, "NoPeek:
    Information leakage reduction to share activations in distributed deep learning", ICDM Workshops 2020). It
    is biased: with long vectors and few samples it is above 0 for independent ones too.

    Args:
        x: n samples, shape [n, ...].
        y: the same number of samples, shape [n, ...].

    Returns:
        R_n; 0 if all samples of one side are equal.
    """
    a, b = _centred_distances(x), _centred_distances(y)
    scale = torch.sqrt((a * a).sum() * (b * b).sum())
    return float(torch.sqrt(((a * b).sum() / scale).clamp(0, 1))) if scale > 0 else 0.0


def _centred_distances(samples: Tensor) -> Tensor:
    """A of the equation above: float64 of shape [n, n]."""
    rows = samples.flatten(1).double()
    rows = rows - rows.mean(dim=0)  # distances stay, and products lose fewer digits
    squares = (rows * rows).sum(dim=1)
    distances = (squares[:, None] + squares - 2 * rows @ rows.T).clamp_(min=0).sqrt_().fill_diagonal_(0)
    return distances - distances.mean(0) - distances.mean(1, keepdim=True) + distances.mean()
