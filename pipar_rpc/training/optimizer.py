"""An optimiser's momentum by the names of parameters, so that it can move with them to the other half."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipar_rpc.base.states import State

BUFFER = "momentum_buffer"


def make_sgd(
    layers: nn.Module, options: Mapping[str, Any], momentum: Mapping[str, Tensor]
) -> torch.optim.SGD:
    """SGD on the parameters of `layers`, going on with the momentum of those that `momentum` names."""
    optimizer = torch.optim.SGD(layers.parameters(), **options)
    load_momentum(layers, optimizer, momentum)
    return optimizer


def load_momentum(
    layers: nn.Module, optimizer: torch.optim.Optimizer, momentum: Mapping[str, Tensor]
) -> None:
    """Replaces the momentum of all parameters; those that `momentum` does not name begin anew."""
    for name, parameter in layers.named_parameters():
        optimizer.state.pop(parameter, None)
        if name in momentum:
            optimizer.state[parameter][BUFFER] = momentum[name].to(parameter.device, copy=True)


def momentum_of(layers: nn.Module, optimizer: torch.optim.Optimizer | None) -> State:
    """A copy on the CPU; parameters that were never updated have none."""
    if optimizer is None:
        return {}
    found = {}
    for name, parameter in layers.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get(BUFFER)
        if buffer is not None:
            found[name] = buffer.to("cpu", copy=True)
    return found
