"""An optimiser's momentum by the names of parameters, so that it can move with them to the other half."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipar_rpc.base.states import State

BUFFER = "momentum_buffer"


def make_sgd(
    layers: nn.Module, options: Mapping[str, Any], momentum: Mapping[str, Tensor]
) -> torch.optim.SGD | None:
    """Makes SGD on the trained parameters of `layers`; those that `momentum` names go on with theirs.

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
    """Copies the momentum buffers to the CPU, by parameter name; before its first update there is none."""
    if optimizer is None:
        return {}
    buffers = {}
    for name, parameter in _trained(layers).items():
        buffer = optimizer.state.get(parameter, {}).get(BUFFER)
        if buffer is not None:
            buffers[name] = buffer.to("cpu", copy=True)
    return buffers


def _trained(layers: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that require a gradient; the others are frozen."""
    return {name: weight for name, weight in layers.named_parameters() if weight.requires_grad}
