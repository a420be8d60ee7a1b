"""Where the network is cut at layer P into the device half, units 1..P, and the server half, units P+1..Q."""

from torch import nn

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.models.registry import build_meta, build_model
from pipar_rpc.models.spec import ModelSpec


def device_layers(network: nn.Sequential, split_point: int) -> nn.Sequential:
    """Units 1..P of the uncut network; the modules are the same."""
    return network[:split_point]


def server_layers(network: nn.Sequential, split_point: int) -> nn.Sequential:
    """Units P+1..Q of the uncut network; the modules are the same. Empty for split point Q."""
    return network[split_point:]


def build_device_layers(spec: ModelSpec, split_point: int) -> nn.Sequential:
    """Units 1..P, without memory for the others: for weak devices. Weights are torch's own first ones.

    Networks of the user's own are built whole, because only they know how to fill their tensors.
    """
    if spec.name == CUSTOM:
        return device_layers(build_model(spec), split_point)
    layers = device_layers(build_meta(spec), split_point).to_empty(device="cpu")
    for module in layers.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return layers
