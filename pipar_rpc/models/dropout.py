"""Dropout whose masks depend on the seed alone, not on threads, processes or the split point.

torch's own layers draw from one generator of the whole process, which the server halves of all devices would
share in the order in which their threads happen to run.
"""

import torch
from torch import Tensor, nn

from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.random_streams import generator


class SeededDropout(nn.Module):
    """`nn.Dropout`, or with `per_channel` `nn.Dropout1d/2d/3d`, with a generator of its own.

    Args:
        p: probability of an element (a channel) to be zeroed.
        per_channel: whether whole feature maps are dropped.

    Attributes:
        rng: generator of the masks; None for torch's own.
    """

    def __init__(self, p: float, per_channel: bool) -> None:
        super().__init__()
        self.p, self.per_channel = p, per_channel
        self.rng: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes at random while training and scales the rest by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        shape = x.shape[:2] + (1,) * (x.dim() - 2) if self.per_channel else x.shape
        # drawn on the CPU: the same masks on every kind of device
        kept = torch.empty(shape, device=x.device if self.rng is None else "cpu", dtype=x.dtype)
        kept.bernoulli_(1 - self.p, generator=self.rng)
        return x * kept.div_(1 - self.p).to(x.device)

    def extra_repr(self) -> str:
        """For printing."""
        return f"p={self.p}, per_channel={self.per_channel}"


def seed_dropout(network: nn.Sequential) -> nn.Sequential:
    """Replaces all of torch's dropout layers by `SeededDropout`, in place; returns the network."""
    for parent in list(network.modules()):
        for name, layer in list(parent._modules.items()):  # named_children() skips repeated layers
            if isinstance(layer, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
                seeded = SeededDropout(layer.p, per_channel=not isinstance(layer, nn.Dropout))
                setattr(parent, name, seeded)
    return network


class DropoutStreams:
    """Gives the dropout layers of one half their generators.

    A mask depends on the seed, the device, the layer's name in the uncut network, the epoch, the iteration
    and the micro-batch. So two runs draw the same masks, wherever the network is cut and from wherever
    training goes on.

    Args:
        layers: the half.
        seed: the experiment's seed.
        device: number of the device, 1..K.
    """

    def __init__(self, layers: nn.Sequential, seed: int, device: int) -> None:
        named = layers.named_modules()
        self._layers = [(name, layer) for name, layer in named if isinstance(layer, SeededDropout)]
        self._seed, self._device = seed, device

    def begin(self, part: Part) -> None:
        """To be called before the forward pass of a micro-batch."""
        for name, layer in self._layers:
            stream = ("dropout", name, self._device, part.epoch, part.iteration, part.index)
            layer.rng = generator(self._seed, *stream)
