"""DP-SGD as a plain loop over single samples, and networks of many kinds of layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipar_rpc.privacy.dpsgd import half_norm
from pipar_rpc.privacy.noise import PrivacyNoise


class SingleSamples:
    """Gradients of mini-batches, from a forward and a backward pass for each sample by itself.

    Args:
        network: uncut network.
        split_point: P.
        max_norm: norm to which gradients are clipped, over both halves.
        noise: standard deviation of the noise as a multiple of it.
        device: number of the device, which names the noise.
        tail: T, number of last units that are on the device again.
    """

    def __init__(
        self,
        network: nn.Sequential,
        split_point: int,
        max_norm: float,
        noise: float = 0.0,
        device: int = 1,
        tail: int = 0,
    ) -> None:
        trained = [sum(own.numel() for own in unit.parameters() if own.requires_grad) for unit in network]
        last = len(network) - tail
        cuts = slice(0, split_point), slice(split_point, last), slice(last, None)
        self.network = network
        self.halves = [
            (dict(network[cut].named_parameters()), half_norm(max_norm, trained, cut))
            for cut in cuts
            if sum(trained[cut])
        ]
        self.noise, self.std = PrivacyNoise(0, False, "dpsgd", device), noise * max_norm
        self.clipped = self.of = 0

    def set(
        self, images: Tensor, labels: Tensor, epoch: int, iteration: int, size: int | None = None
    ) -> None:
        """Puts the gradient that the optimiser gets into the parameters; `size` is what it is divided by."""
        sums = {name: torch.zeros_like(own) for name, own in self.network.named_parameters()}
        for image, label in zip(images, labels, strict=True):
            self.network.zero_grad()
            F.cross_entropy(self.network(image[None]), label[None]).backward()
            for half, clip_norm in self.halves:
                self._add(half, clip_norm, sums)
        for name, own in self.network.named_parameters():
            if own.requires_grad:
                drawn = self.noise.gaussian(own.shape, epoch, iteration, name).to(own)
                own.grad = (sums[name] + self.std * drawn) / (size or len(images))

    def _add(self, half: dict[str, nn.Parameter], clip_norm: float, sums: dict[str, Tensor]) -> None:
        own = {name: weight.grad for name, weight in half.items() if weight.grad is not None}
        if not own:
            return
        norm = float(torch.cat([gradient.flatten() for gradient in own.values()]).norm())
        self.clipped, self.of = self.clipped + (norm > clip_norm), self.of + 1
        for name, gradient in own.items():
            sums[name] += gradient * min(1.0, clip_norm / norm)


class Tokens(nn.Module):
    """An image's bytes as a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).long()


class Positions(nn.Module):
    """Has a parameter of its own, for which no sampler is known."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = x + self.table
        return moved


class Block(nn.Module):
    """A transformer's block whose two linear layers are the same one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.again = nn.LayerNorm(width), nn.LayerNorm(width, bias=False)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        moved: Tensor = x + self.linear(F.relu(self.linear(self.again(x))))
        return moved


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class MixesSamples(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def transformer(input_shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    length, width = input_shape[0] * input_shape[1] * input_shape[2], 6
    embedding = nn.Sequential(Tokens(), nn.Embedding(256, width, padding_idx=3), Positions(length, width))
    return [embedding, Block(width), nn.Sequential(Mean(), nn.Linear(width, num_classes))]


def convolutions(input_shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    """Options of convolutions, layers that work in place, dropout and no bias."""
    first = nn.Sequential(nn.Conv2d(input_shape[0], 4, 3, padding=1), nn.ReLU(inplace=True))
    second = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2),  # whose bias does not matter
        nn.InstanceNorm2d(8, affine=True),
        nn.ReLU(inplace=True),
    )
    third = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), nn.GroupNorm(2, 4))
    return [first, second, third, nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))]


def mixing(input_shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    size = input_shape[0] * input_shape[1] * input_shape[2]
    return [nn.Flatten(), MixesSamples(), nn.Linear(size, num_classes)]


class Branching(nn.Module):
    """What it computes depends on its numbers, which no sampler can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if float(x.sum()) > 0 else x


def branching(input_shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    return [Branching(), nn.Flatten()]


class Overwriting(nn.Module):
    """Changes in place what a layer in it still needs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        x.mul_(2)
        return y


def overwriting(input_shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    return [Overwriting(input_shape[2]), nn.Flatten()]


def recurrent(input_shape: tuple[int, ...], num_classes: int) -> list[nn.Module]:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(input_shape[2], 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            last: Tensor = self.lstm(x.flatten(1, 2))[0][:, -1]
            return last

    return [Last(), nn.Linear(4, num_classes)]
