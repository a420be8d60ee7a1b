"""Optimisers by name or dotted name, and how one is made for a half of the network."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.base.without_compiler import keep_compiler_out

KEY = "optimizer"
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


@dataclass(frozen=True)
class OptimizerSpec(dotted.Choice):
    """All that is needed to make an optimiser; plain data, with a name of `OPTIMIZERS`.

    A custom optimiser takes parameter groups first, as torch's do.

    Attributes:
        lr: rate; like the next two, it goes to optimisers that have such an argument.
        momentum: momentum factor.
        weight_decay: factor of the penalty on weights.
        decay_all: whether weights decay everywhere; if not, parameters with fewer than two dimensions do
            not, which are biases and the scales of normalisation layers.
        clip_norm: largest L2 norm of the gradient of a half, over all its parameters; None for no limit.
        clip_value: largest magnitude of each number of the gradient; None for no limit.
        proximal_mu: mu of FedProx's penalty mu/2 * ||w - w_global||^2 (Li et al., MLSys 2020, equation 2).
    """

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_all: bool = True
    clip_norm: float | None = None
    clip_value: float | None = None
    proximal_mu: float = 0.0


def make_optimizer(spec: OptimizerSpec, parameters: Sequence[Tensor]) -> Optimizer:
    """Makes the optimiser of some parameters, at least one.

    Raises:
        UserError: no such class, it failed, or it cannot be used here.
    """
    offered: dict[str, Any] = {"params": _groups(spec, parameters)}
    offered |= {"lr": spec.lr, "momentum": spec.momentum, "weight_decay": spec.weight_decay}
    keep_compiler_out()
    made = dotted.make(KEY, spec, OPTIMIZERS, offered)
    if not isinstance(made, Optimizer):
        what = f"the class of a torch.optim.Optimizer, not of {type(made).__name__}"
        raise ConfigError(f"{KEY}._target_", spec.target, what)
    return made


def _groups(spec: OptimizerSpec, parameters: Sequence[Tensor]) -> list[dict[str, Any]]:
    """One group; two if some parameters do not decay."""
    if spec.decay_all:
        return [{"params": list(parameters)}]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in parameters if weight.dim() >= 2]},
        {"params": [weight for weight in parameters if weight.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def try_optimizer(spec: OptimizerSpec, dims: Collection[int] = (2,)) -> float:
    """Steps once with parameters of its own; returns the bytes of its state as a multiple of the weights'.

    Args:
        spec: optimiser.
        dims: numbers of dimensions that the network's parameters have.

    Raises:
        UserError: the optimiser cannot be made, does not take such parameters, needs more than gradients, or
            keeps what cannot travel.
    """
    weights = [nn.Parameter(torch.ones([16, 16, *[1] * (dim - 2)][:dim])) for dim in sorted(dims)]
    optimizer, weight = make_optimizer(spec, weights), weights[-1]
    for each in weights:
        each.grad = torch.ones_like(each)
    try:
        optimizer.step()
    except Exception as error:
        why = f"one whose step() needs nothing but gradients ({type(error).__name__}: {first_line(error)})"
        raise UserError(f"{KEY}={spec.called}: must be {why}") from error
    kept: Mapping[str, Any] = optimizer.state.get(weight, {})
    for name, value in kept.items():
        if value is not None and not isinstance(value, Tensor | int | float):
            what = f"one whose state are tensors and numbers: {name} is of {type(value).__name__}"
            raise UserError(f"{KEY}={spec.called}: must be {what}")
    tensors = [value for value in kept.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in tensors if tensor.dim()) / weight.nbytes
