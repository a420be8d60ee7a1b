"""The networks, each a sequence of cut units: unit q may end the device half for any q in 1..Q.

A network is an `nn.Sequential` of its units, so slicing cuts it: `network[:P]` is the device half and
`network[P:]` the server half. Slices keep the units' names, so the two state dicts together are the state
dict of the uncut network.

`python -m pipar_rpc.models` lists the units of each network.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pipar_rpc.base.errors import ConfigError, nearest
from pipar_rpc.base.states import State
from pipar_rpc.models import torchvision_nets, vgg, weights
from pipar_rpc.models.custom import build_custom
from pipar_rpc.models.dropout import DropoutStreams, seed_dropout
from pipar_rpc.models.norm import Norm
from pipar_rpc.models.spec import CUSTOM, ModelSpec
from pipar_rpc.models.summary import UnitSummary, held_bytes, smallest_batch, summarise, table

__all__ = [
    "ALIASES",
    "CUSTOM",
    "MODELS",
    "DropoutStreams",
    "ModelSpec",
    "Norm",
    "UnitSummary",
    "build_meta",
    "build_model",
    "build_part",
    "held_bytes",
    "published",
    "read_weights",
    "seed_dropout",
    "smallest_batch",
    "summarise",
    "table",
]

Builder = Callable[[int, int, int, Norm], nn.Sequential | torchvision_nets.Published]

MODELS: dict[str, Builder] = {
    "vgg5": vgg.vgg5,
    "vgg11": vgg.vgg11,
    "vgg16": vgg.vgg16,
    "resnet18": torchvision_nets.resnet("resnet18"),
    "resnet50": torchvision_nets.resnet("resnet50"),
    "mobilenet_small": torchvision_nets.mobilenet("mobilenet_v3_small"),
    "mobilenet_large": torchvision_nets.mobilenet("mobilenet_v3_large"),
}

ALIASES = {  # the names of the paper's reference implementation
    "VGG5": "vgg5",
    "VGG11": "vgg11",
    "VGG16": "vgg16",
    "ResNet18": "resnet18",
    "ResNet50": "resnet50",
    "MobileNetSmall": "mobilenet_small",
    "MobileNetLarge": "mobilenet_large",
}


def build_model(spec: ModelSpec) -> nn.Sequential:
    """Builds the uncut network with torch's current random state.

    Raises:
        ConfigError: unknown name, or images that are too small for the network.
        UserError: the function of a custom network is not there or failed.
    """
    return seed_dropout(_build(spec)[0])


def build_meta(spec: ModelSpec) -> nn.Sequential:
    """The uncut network without numbers, for shapes and names; errors as `build_model`."""
    with torch.device("meta"):
        return build_model(spec)


def build_part(spec: ModelSpec, num_units: int) -> nn.Sequential:
    """The first units, without memory for the others: for weak devices. Weights are torch's own first ones.

    Networks of the user's own are built whole, because only they know how to fill their tensors.
    """
    if spec.name == CUSTOM:
        return build_model(spec)[:num_units]
    part = build_meta(spec)[:num_units].to_empty(device="cpu")
    for module in part.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return part


def published(state: State, spec: ModelSpec) -> State:
    """A state of the units under the names of the uncut network, as its authors published it.

    torchvision's for ResNet and MobileNet, the units' own names for all others.
    """
    return weights.rename(state, _names(spec))


def read_weights(path: Path, spec: ModelSpec, strict: bool) -> State:
    """Reads a state dict of the uncut network, published names, for the units; see `weights.load_weights`."""
    return weights.load_weights(path, _names(spec), build_meta(spec).state_dict(), strict)


def _build(spec: ModelSpec) -> tuple[nn.Sequential, nn.Module]:
    """The units, and the network that names the weights."""
    if spec.name == CUSTOM:
        built: nn.Sequential | torchvision_nets.Published = build_custom(spec)
    elif spec.name in MODELS:
        built = MODELS[spec.name](spec.channels, spec.image_size, spec.num_classes, spec.norm)
    else:
        raise ConfigError("model.name", spec.name, f"a known model: {nearest(spec.name, [*MODELS, CUSTOM])}")
    return built if isinstance(built, tuple) else (built, built)


def _names(spec: ModelSpec) -> dict[str, str]:
    with torch.device("meta"):
        return weights.published_names(*_build(spec))
