"""What is needed to build a network, as plain data."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pipar_rpc.models.norm import Norm

CUSTOM = "custom"


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network; plain data, so that it can be sent to a device.

    Attributes:
        name: a key of `MODELS`, or "custom".
        norm: kind of normalisation layers.
        channels: channels of the input images.
        image_size: height and width of the input images in pixels.
        num_classes: number of outputs.
        target: dotted name of the function that builds a custom network.
        args: further keyword arguments for that function.
        freeze: what does not train: a number of first units, or names and patterns; see `freezing.freeze`.
    """

    name: str
    norm: Norm
    channels: int
    image_size: int
    num_classes: int
    target: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    freeze: int | tuple[str, ...] = ()


def named_units(network: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """The units with their names; unlike `named_children`, a module that is used twice is there twice."""
    return list(zip(network._modules, network, strict=True))
