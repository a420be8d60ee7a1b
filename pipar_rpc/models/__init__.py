"""The networks, each a sequence of cut units: unit q may end the device half for any q in 1..Q.

A network is an `nn.Sequential` of its units, so slicing cuts it: `network[:P]` is the device half and
`network[P:]` the server half. Slices keep the units' names, so the two state dicts together are the state
dict of the uncut network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pipar_rpc.errors import ConfigError, nearest
from pipar_rpc.models import vgg
from pipar_rpc.models.norm import Norm

__all__ = ["MODELS", "ModelSpec", "Norm", "activation_bytes", "build_model"]


MODELS: dict[str, Callable[[int, int, int, Norm], nn.Sequential]] = {"vgg5": vgg.vgg5}


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network; plain data, so that it can be sent to a device.

    Attributes:
        name: a key of `MODELS`.
        norm: kind of normalisation layers.
        channels: channels of the input images.
        image_size: height and width of the input images in pixels.
        num_classes: number of outputs.
    """

    name: str
    norm: Norm
    channels: int
    image_size: int
    num_classes: int


def build_model(spec: ModelSpec) -> nn.Sequential:
    """Builds the uncut network with torch's current random state; raises ConfigError for unknown names."""
    if spec.name not in MODELS:
        raise ConfigError("model.name", spec.name, f"a known model: {nearest(spec.name, MODELS)}")
    return MODELS[spec.name](spec.channels, spec.image_size, spec.num_classes, spec.norm)


def activation_bytes(spec: ModelSpec, split_point: int, batch_size: int) -> int:
    """Bytes of the activation of a whole batch after unit `split_point`; computes shapes only, no numbers."""
    with torch.device("meta"), torch.no_grad():
        images = torch.empty(batch_size, spec.channels, spec.image_size, spec.image_size)
        activation: torch.Tensor = build_model(spec)[:split_point].train()(images)
    return activation.nbytes
