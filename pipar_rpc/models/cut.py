"""Where the network is cut at layer P into the device half, units 1..P, and the server half, units P+1..Q.

Where the labels stay on the device, it also holds the last T units, and the server half ends before them.
"""

from collections import OrderedDict

import torch
from torch import nn

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.models.registry import build_meta, build_model
from pipar_rpc.models.spec import ModelSpec


def device_layers(network: nn.Sequential, split_point: int, tail_units: int = 0) -> nn.Sequential:
    """Units 1..P and the last T of the uncut network; modules and names are the same."""
    tail = network[len(network) - tail_units :]
    return nn.Sequential(OrderedDict([*network[:split_point]._modules.items(), *tail._modules.items()]))


def server_layers(network: nn.Sequential, split_point: int, tail_units: int = 0) -> nn.Sequential:
    """Units P+1..Q-T of the uncut network; modules and names are the same. Empty for split point Q."""
    return network[split_point : len(network) - tail_units]


def build_device_layers(spec: ModelSpec, split_point: int, tail_units: int = 0) -> nn.Sequential:
    """Units 1..P and the last T, without memory for the others: for weak devices.

    Weights are torch's own first ones. Networks of the user's own are built whole, because only they know how
    to fill their tensors.
    """
    if spec.name == CUSTOM:
        return device_layers(build_model(spec), split_point, tail_units)
    layers = _with_memory(device_layers(build_meta(spec), split_point, tail_units))
    for module in layers.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return layers


def _with_memory(layers: nn.Sequential) -> nn.Sequential:
    """As `to_empty`, whose `empty_like` imports sympy for tensors on the meta device."""
    layers._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"))
    return layers
