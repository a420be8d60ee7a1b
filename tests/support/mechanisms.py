"""Mechanisms at the cut as users write them, right and wrong."""

import torch
from torch import Tensor

from pipar_rpc.base.microbatch import Part


class AsItIs:
    def release(self, part: Part, activation: Tensor) -> Tensor:
        return activation

    def loss(self, part: Part, inputs: Tensor, activation: Tensor) -> Tensor | None:
        return None


class Halved(AsItIs):
    """Halves the activation, and adds the mean square of what the layers computed to the loss."""

    def release(self, part: Part, activation: Tensor) -> Tensor:
        return activation * 0.5

    def loss(self, part: Part, inputs: Tensor, activation: Tensor) -> Tensor | None:
        return activation.square().mean()


class Flat(AsItIs):
    def release(self, part: Part, activation: Tensor) -> Tensor:
        return activation.flatten(1)


class Detached(AsItIs):
    def release(self, part: Part, activation: Tensor) -> Tensor:
        return activation.detach()


class InPlace(AsItIs):
    def release(self, part: Part, activation: Tensor) -> Tensor:
        return activation.mul_(2)


class Centred(AsItIs):
    def release(self, part: Part, activation: Tensor) -> Tensor:
        return activation - activation.mean(0)


class Shared(AsItIs):
    """Draws from torch's own generator."""

    def release(self, part: Part, activation: Tensor) -> Tensor:
        return activation + torch.randn_like(activation)


class Losses(AsItIs):
    """Its loss has a number for each sample."""

    def loss(self, part: Part, inputs: Tensor, activation: Tensor) -> Tensor | None:
        return activation.flatten(1).mean(1)


class NoLoss:
    def release(self, part: Part, activation: Tensor) -> Tensor:
        return activation
