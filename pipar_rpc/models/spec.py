"""What is needed to build a network, as plain data."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipar_rpc.base.network_input import NetworkInput
from pipar_rpc.models.norm import Norm


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network; plain data, so that it can be sent to a device.

    Attributes:
        name: a key of `MODELS`, or "custom".
        norm: kind of normalisation layers.
        channels: channels of the input images; 0 where the input is no square image.
        image_size: height and width of the input images in pixels; 0 where the input is no square image.
        num_classes: number of outputs; 0 if it is the network's own affair.
        target: dotted name of the function that builds a custom network.
        args: further keyword arguments for that function.
        freeze: what does not train: a number of first units, or names and patterns; see `freezing.freeze`.
        input: shape and type of the input; None for square images whose labels are classes, so that the
            network has an output for each class.
    """

    name: str
    norm: Norm
    channels: int
    image_size: int
    num_classes: int
    target: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    freeze: int | tuple[str, ...] = ()
    input: NetworkInput | None = None

    @property
    def sample(self) -> NetworkInput:
        """Shape and type of the input."""
        return self.input or NetworkInput((self.channels, self.image_size, self.image_size))

    def make_input(self, count: int, device: torch.device | str) -> Tensor:
        """Makes a batch up, to try the network or to time it; see `NetworkInput.make`."""
        return self.sample.make(count, device)


def named_units(network: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """The units with their names; unlike `named_children`, a module that is used twice is there twice."""
    return list(zip(network._modules, network, strict=True))
