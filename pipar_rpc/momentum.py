"""An optimiser's momentum by the names of parameters, so that it can move with them to the other half."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipar_rpc.fedavg import State

BUFFER = "momentum_buffer"


def make_sgd(
    layers: nn.Module, options: Mapping[str, Any], momentum: Mapping[str, Tensor]
) -> torch.optim.SGD | None:
    """SGD on the trained parameters of `layers`, going on with the momentum of those that `momentum` names.

    Returns:
        None where there is nothing to train: no parameter requires a gradient.
    """
    trained = _trained(layers)
    if not trained:
        return None
    optimizer = torch.optim.SGD(trained.values(), **options)
    load_momentum(layers, optimizer, momentum)
    return optimizer


def load_momentum(
    layers: nn.Module, optimizer: torch.optim.Optimizer | None, momentum: Mapping[str, Tensor]
) -> None:
    """Replaces the momentum of all trained parameters; those that `momentum` does not name begin anew."""
    if optimizer is None:
        return
    for name, parameter in _trained(layers).items():
        optimizer.state.pop(parameter, None)
        if name in momentum:
            optimizer.state[parameter][BUFFER] = momentum[name].to(parameter.device, copy=True)


def momentum_of(layers: nn.Module, optimizer: torch.optim.Optimizer | None) -> State:
    """A copy on the CPU; parameters that were never updated have none."""
    if optimizer is None:
        return {}
    found = {}
    for name, parameter in _trained(layers).items():
        buffer = optimizer.state.get(parameter, {}).get(BUFFER)
        if buffer is not None:
            found[name] = buffer.to("cpu", copy=True)
    return found


def _trained(layers: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient; the others are frozen."""
    return {name: own for name, own in layers.named_parameters() if own.requires_grad}
