"""How much two sets of samples depend on each other: what NoPeek lowers, and what leakage is measured by."""

import torch
from torch import Tensor


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    """The distance correlation of samples, 0..1: Szekely, Rizzo and Bakirov, Annals of Statistics, 2007.

    With a_kl = ||x_k - x_l|| and A_kl = a_kl - mean_l a_kl - mean_k a_kl + mean a_kl, and B alike of y,
    dCov^2 = mean A B (definition 4), dVar^2 = mean A^2 (definition 5) and
    dCor = sqrt(dCov^2(x, y) / sqrt(dVar^2(x) dVar^2(y))), 0 where a variance is 0 (equation 2.10): for one
    sample, for one. Square roots have the gradient 0 at 0, so that equal samples do no harm.

    It is biased: with long vectors and few samples it is above 0 for independent ones too.

    Args:
        x: shape [b, ...], floats.
        y: shape [b, ...], floats.
    """
    a, b = _centred_distances(x), _centred_distances(y)
    norms = _sqrt((a * a).mean()) * _sqrt((b * b).mean()).to(a)
    covariance = (a * b.to(a)).mean()
    return _sqrt(torch.where(norms > 0, covariance / torch.where(norms > 0, norms, 1), 0))


def _centred_distances(samples: Tensor) -> Tensor:
    """Euclidean distances of all pairs of samples without the means of rows and columns: shape [b, b].

    From inner products, which takes a tenth of the time of differences; of centred samples, so that little
    is lost by rounding.
    """
    flat = samples.flatten(1) if samples.dim() > 1 else samples[:, None]
    flat = flat - flat.mean(dim=0)
    products = flat @ flat.T
    squares = products.diagonal()
    distances = _sqrt(squares[:, None] + squares - 2 * products)
    return distances - distances.mean(dim=0) - distances.mean(dim=1, keepdim=True) + distances.mean()


def _sqrt(values: Tensor) -> Tensor:
    """The square root; 0 with gradient 0 where a value is 0, or below it by rounding. NaN stays NaN."""
    nothing = values <= 0
    return torch.where(nothing, 1, values).sqrt().masked_fill(nothing, 0)
