"""The networks by name, and how they are built, cut and read."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.base.errors import ConfigError, nearest
from pipar_rpc.base.states import State
from pipar_rpc.models.custom import build_custom
from pipar_rpc.models.dropout import seed_dropout
from pipar_rpc.models.freezing import freeze
from pipar_rpc.models.norm import Norm
from pipar_rpc.models.spec import ModelSpec
from pipar_rpc.models.torchvision_nets import Published, mobilenet, resnet
from pipar_rpc.models.vgg import vgg5, vgg11, vgg16
from pipar_rpc.models.weights import load_weights, published_names, rename

Builder = Callable[[int, int, int, Norm], nn.Sequential | Published]

MODELS: dict[str, Builder] = {
    "vgg5": vgg5,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "resnet18": resnet("resnet18"),
    "resnet50": resnet("resnet50"),
    "mobilenet_small": mobilenet("mobilenet_v3_small"),
    "mobilenet_large": mobilenet("mobilenet_v3_large"),
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
        ConfigError: unknown name, images that are too small for the network, or names to freeze that it does
            not have.
        UserError: the function of a custom network is not there or failed.
    """
    return freeze(seed_dropout(_build(spec)[0]), spec.freeze)


def build_meta(spec: ModelSpec) -> nn.Sequential:
    """The uncut network without numbers, for shapes and names; errors as `build_model`."""
    with torch.device("meta"):
        return build_model(spec)


def published(state: State, spec: ModelSpec) -> State:
    """A state of the units under the names of the uncut network, as its authors published it.

    torchvision's for ResNet and MobileNet, the units' own names for all others.
    """
    return rename(state, _names(spec))


def read_weights(path: Path, spec: ModelSpec, strict: bool) -> State:
    """Reads a state dict of the uncut network, published names, for the units; see `load_weights`."""
    return load_weights(path, _names(spec), build_meta(spec).state_dict(), strict)


def _build(spec: ModelSpec) -> tuple[nn.Sequential, nn.Module]:
    """The units, and the network that names the weights."""
    if spec.name == CUSTOM:
        built: nn.Sequential | Published = build_custom(spec)
    elif spec.name in MODELS:
        _check_images(spec)
        built = MODELS[spec.name](spec.channels, spec.image_size, spec.num_classes, spec.norm)
    else:
        raise ConfigError("model.name", spec.name, f"a known model: {nearest(spec.name, [*MODELS, CUSTOM])}")
    return built if isinstance(built, tuple) else (built, built)


def _check_images(spec: ModelSpec) -> None:
    if not (spec.channels and spec.image_size):
        own = f"custom: a network of your own, as the input is no square image but {spec.sample}"
        raise ConfigError("model.name", spec.name, own)
    if not spec.num_classes:
        raise ConfigError("data.num_classes", None, f"the number of outputs of {spec.name}")


def _names(spec: ModelSpec) -> dict[str, str]:
    with torch.device("meta"):
        return published_names(*_build(spec))
