"""Tries on a few made-up samples whether a network has gradients of single samples."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipar_rpc.base.errors import UserError, first_line
from pipar_rpc.privacy.sample_gradients import SampleGradients
from pipar_rpc.privacy.samplers import KEY

CLOSE = 1e-4  # of the longest gradient of a unit: sums in single precision differ by less
ERRORS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


def check_network(network: nn.Sequential, inputs: Tensor, empty: bool) -> None:
    """Compares each unit's gradients of single samples with those of passes with one sample each.

    Dropout is off, for each pass draws its own.

    Args:
        network: uncut network, which is changed to evaluation.
        inputs: input, shape [b, ...], b >= 2.
        empty: whether the network must take mini-batches without samples.

    Raises:
        UserError: one line that names the unit whose gradients are others, or cannot be computed.
    """
    x = inputs
    for name, unit in network.eval().named_children():
        try:
            y = _check_unit(name, unit, x)
            if empty:
                unit(x[:0])
        except ERRORS as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{KEY}: unit {name} fails on single samples or on none: {why}") from error
        x = y


def _check_unit(name: str, unit: nn.Module, x: Tensor) -> Tensor:
    gradients = SampleGradients(unit)
    with gradients.watched():
        y: Tensor = unit(x.clone())
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view(y.shape)
    if y.requires_grad:
        y.backward(direction)
    found, trained = gradients.take(), dict(unit.named_parameters())
    singles = [slice(index, index + 1) for index in range(len(x))]
    alone = [unit(x[own].clone()) for own in singles]
    expected = [_gradients(value, direction[own], trained) for value, own in zip(alone, singles, strict=True)]
    longest = max((float(own.norm()) for each in expected for own in each.values()), default=0.0)
    pairs = [(torch.cat(alone).detach(), y.detach(), float(y.detach().norm()))]
    for index, each in enumerate(expected):
        one = torch.zeros(len(x), dtype=y.dtype)
        one[index] = 1
        for key, own in each.items():
            known = found.get(trained[key])
            pairs.append((own, torch.empty(0) if known is None else known.weighted_sum(one), longest))
    if not all(_close(*pair) for pair in pairs):
        what = "its output or its gradient for a sample depends on the other samples, or is not known"
        raise UserError(f"{KEY}: unit {name} of the network ({type(unit).__name__}): {what}")
    return y.detach()


def _gradients(y: Tensor, direction: Tensor, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The gradients of what is trained and used."""
    trained = {key: weight for key, weight in weights.items() if weight.requires_grad}
    if not trained:
        return {}
    found = torch.autograd.grad(y, list(trained.values()), direction, allow_unused=True)
    return {key: own for key, own in zip(trained, found, strict=True) if own is not None}


def _close(value: Tensor, expected: Tensor, scale: float) -> bool:
    return value.shape == expected.shape and bool((value - expected).norm() <= CLOSE * scale)
