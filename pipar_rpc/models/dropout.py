"""Dropout whose masks depend on the seed alone, not on threads, processes or the split point.

torch's own layers draw from one generator of the whole process, which the server halves of all devices would
share in the order in which their threads happen to run.
"""

from collections.abc import Sequence

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
        merged: generators and numbers of samples of the devices whose samples are in the batch one after the
            other; empty for a batch of one device.
    """

    def __init__(self, p: float, per_channel: bool) -> None:
        super().__init__()
        self.p, self.per_channel = p, per_channel
        self.rng: torch.Generator | None = None
        self.merged: Sequence[tuple[torch.Generator, int]] = ()

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes at random while training and scales the rest by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        shape = x.shape[:2] + (1,) * (x.dim() - 2) if self.per_channel else x.shape
        kept = torch.cat([self._draw((rows, *shape[1:]), rng, x) for rng, rows in self._rows(shape[0])])
        return x * kept.div_(1 - self.p).to(x.device)

    def _rows(self, count: int) -> list[tuple[torch.Generator | None, int]]:
        """Whose generator draws how many rows of a mask of `count` rows.

        Where the rows are not those of samples, the first device's draws them all.
        """
        samples = sum(size for _, size in self.merged)
        if not samples or count % samples:
            return [(self.rng, count)]
        return [(rng, size * (count // samples)) for rng, size in self.merged]

    def _draw(self, shape: Sequence[int], rng: torch.Generator | None, x: Tensor) -> Tensor:
        """Draws ones with probability 1 - p, on the CPU: the same masks on every kind of device."""
        kept = torch.empty(shape, device=x.device if rng is None else "cpu", dtype=x.dtype)
        return kept.bernoulli_(1 - self.p, generator=rng)

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
            layer.rng = self._generator(name, part)

    def _generator(self, name: str, part: Part) -> torch.Generator:
        stream = ("dropout", name, self._device, part.epoch, part.iteration, part.index)
        return generator(self._seed, *stream)

    @staticmethod
    def begin_merged(of_devices: Sequence[tuple["DropoutStreams", Part, int]]) -> None:
        """To be called before the forward pass of a batch that micro-batches of several devices make up.

        Each sample gets the mask that it would get in its device's own micro-batch.

        Args:
            of_devices: streams of the same layers for each device, its micro-batch and its number of samples,
                in the order in which the samples are in the batch.
        """
        for name, layer in of_devices[0][0]._layers:
            layer.merged = [(own._generator(name, part), size) for own, part, size in of_devices]
            layer.rng = layer.merged[0][0]
