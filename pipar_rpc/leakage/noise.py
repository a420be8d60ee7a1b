"""What a device may do to activations before they leave: clip each sample's, and add noise."""

import torch
from torch import Tensor

from pipar_rpc.privacy.activations import clipped


def clip_and_noise(activations: Tensor, max_norm: float, noise: float, rng: torch.Generator) -> Tensor:
    """Clips each sample's activation to an L2 norm and adds Gaussian noise.

        a * min(1, max_norm / |a|) + N(0, (noise * max_norm)^2)

    It is what `privacy.activations` does with Gaussian noise; only the numbers are drawn all at once here.

    Args:
        activations: shape [b, ...].
        max_norm: largest L2 norm of a sample.
        noise: standard deviation of the noise as a multiple of `max_norm`.
        rng: generator of the noise, on the CPU.
    """
    drawn = torch.randn(activations.shape, generator=rng, dtype=activations.dtype).to(activations.device)
    sent: Tensor = clipped(activations, max_norm, order=2) + noise * max_norm * drawn
    return sent


def median_norm(activations: Tensor) -> float:
    """The median of the samples' L2 norms: a usual `max_norm`, which half of the samples exceed."""
    return float(activations.flatten(1).norm(dim=1).median())
