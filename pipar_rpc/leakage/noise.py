"""What a device may do to activations before they leave: clip each sample's, and add noise."""

import torch
from torch import Tensor


def clip_and_noise(activations: Tensor, max_norm: float, noise: float, rng: torch.Generator) -> Tensor:
    """Clips each sample's activation to an L2 norm and adds Gaussian noise.

        a * min(1, max_norm / |a|) + N(0, (noise * max_norm)^2)

    As the Gaussian mechanism has it (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016,
    section 3.1, there for gradients).

    Args:
        activations: shape [b, ...].
        max_norm: largest L2 norm of a sample.
        noise: standard deviation of the noise as a multiple of `max_norm`.
        rng: generator of the noise, on the CPU.
    """
    norms = activations.flatten(1).norm(dim=1).clamp(min=torch.finfo(activations.dtype).tiny)
    shares = (max_norm / norms).clamp(max=1).view(-1, *[1] * (activations.dim() - 1))
    drawn = torch.randn(activations.shape, generator=rng, dtype=activations.dtype).to(activations.device)
    sent: Tensor = activations * shares + noise * max_norm * drawn
    return sent


def median_norm(activations: Tensor) -> float:
    """The median of the samples' L2 norms: a usual `max_norm`, which half of the samples exceed."""
    return float(activations.flatten(1).norm(dim=1).median())
