"""Clipping and noise of what leaves a device: differential privacy of inputs towards whoever receives it."""

from typing import Any

import torch
from torch import Tensor

from pipar_rpc.base.microbatch import Part
from pipar_rpc.privacy.noise import PrivacyNoise
from pipar_rpc.privacy.spec import LAPLACE, ActivationNoiseSpec


def clipped(values: Tensor, max_norm: float, order: int) -> Tensor:
    """Each sample x as x * min(1, C / ||x||), differentiable as it is written; at norm 0 the factor is 1.

    The norm is computed in double precision. Samples that are not finite become NaN, so that a device that
    diverges is noticed as without clipping.

    Args:
        values: shape [b, ...].
        max_norm: C, above 0 and finite.
        order: 1 or 2, the norm's order.
    """
    kept: Tensor = _Clip.apply(values.flatten(1) if values.dim() > 1 else values[:, None], max_norm, order)
    return kept.view(values.shape)


class _Clip(torch.autograd.Function):
    """Clips rows. Autograd's own way through the norm makes several copies in double precision."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, max_norm: float, order: int) -> Tensor:
        norms = torch.linalg.vector_norm(rows, order, dim=1, keepdim=True, dtype=torch.float64)
        factors = (max_norm / norms.clamp(min=max_norm)).to(rows.dtype)
        ctx.save_for_backward(rows, norms, factors)
        ctx.max_norm, ctx.order = max_norm, order
        kept: Tensor = rows * factors
        return kept

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """g C / n - <g, x> C / n^2 dn/dx for rows x of norm n > C, g for the others."""
        rows, norms, factors = ctx.saved_tensors
        inner = torch.bmm(gradient.unsqueeze(1), rows.unsqueeze(2)).view(-1, 1)
        slope = rows if ctx.order == 2 else rows.sign()  # dn/dx, for order 2 times n
        weights = -inner * ctx.max_norm / norms**2 / (norms if ctx.order == 2 else 1)
        weights = weights.masked_fill(norms <= ctx.max_norm, 0).to(rows.dtype)
        return (gradient * factors).addcmul_(slope, weights), None, None


class ActivationNoise:
    """Clips the activation of each sample and adds noise: the Gaussian or the Laplace mechanism.

    A sample x becomes x * min(1, C / ||x||) + n: with the L2 norm and Gaussian noise n of standard deviation
    z C, or with the L1 norm and Laplace noise of scale z C (Dwork and Roth, "The Algorithmic Foundations of
    Differential Privacy", 2014, definitions 3.3 and A.1). Two inputs' clipped activations differ by at most
    2 C in that norm, so the noise is z / 2 of the sensitivity.

    Args:
        spec: C, z and the distribution.
        noise: source of the noise; it belongs to the samples of the mini-batch, whatever N is.
    """

    def __init__(self, spec: ActivationNoiseSpec, noise: PrivacyNoise) -> None:
        self._max_norm, self._scale = spec.max_norm, spec.noise_multiplier * spec.max_norm
        laplace = spec.distribution == LAPLACE
        self._order = 1 if laplace else 2
        self._draw = noise.laplace_of_samples if laplace else noise.gaussian_of_samples

    def release(self, part: Part, activation: Tensor) -> Tensor:
        """Clips and adds noise; the gradient passes through the clipping."""
        kept = clipped(activation, self._max_norm, self._order)
        if not self._scale:
            return kept
        drawn = self._draw(activation.shape, part.first, part.epoch, part.iteration)
        return kept + drawn.mul_(self._scale).to(kept)

    def loss(self, part: Part, inputs: Tensor, activation: Tensor) -> None:
        """None: nothing is added to the loss."""
