"""Reconstruction: a small convolutional network that learns to make images out of activations."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipar_rpc.base.errors import UserError
from pipar_rpc.base.random_streams import generator, global_generators

WIDTH, MOST_FLAT, BATCH_SIZE = 64, 1024, 50
LEARNING_RATE = 2e-3
SMALLEST_IMAGE = 6  # pixels: SSIM's window of 11 is mirrored at the borders


class Decoder(nn.Module):
    """From activations to images: standardised, then doubled in size until it is that of the image.

    A map [C, H, W] is convolved with 64 channels (3x3); what is flat becomes 64 maps of a quarter of the
    image's size by a linear layer. Transposed convolutions (4x4, stride 2) double the size, and a last
    convolution (3x3) with a sigmoid makes pixels.

    Args:
        activations: examples, shape [n, ...], for shape, mean and deviation.
        image_shape: [C, S, S] of the images.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, activations: Tensor, image_shape: Sequence[int]) -> None:
        super().__init__()
        channels, size, _ = image_shape
        maps = activations.dim() == 4
        dims = (0, 2, 3) if maps else (0,)
        self.register_buffer("mean", activations.mean(dim=dims, keepdim=True))
        self.register_buffer("deviation", activations.std(dim=dims, keepdim=True).clamp(min=1e-6))
        first, side = _on_maps(activations) if maps else _on_flat(activations, max(1, size // 4))
        doublings = max(0, round(math.log2(size / side)))
        widths = [WIDTH] * max(1, doublings) + [WIDTH // 2]
        grow: list[nn.Module] = []
        for number in range(doublings):
            grow += [nn.ConvTranspose2d(widths[number], widths[number + 1], 4, 2, 1), nn.ReLU()]
        width = widths[doublings] if doublings else WIDTH
        self.layers = nn.Sequential(*first, *grow, nn.Conv2d(width, channels, 3, padding=1))
        self._size = size

    def forward(self, activations: Tensor) -> Tensor:
        """Images with pixels 0..1, shape [b, C, S, S]."""
        images = self.layers((activations - self.mean) / self.deviation)
        if images.shape[-2:] != (self._size, self._size):
            images = F.interpolate(images, size=(self._size, self._size), mode="bilinear")
        return torch.sigmoid(images)


def _on_maps(activations: Tensor) -> tuple[list[nn.Module], int]:
    channels, *sides = activations.shape[1:]
    return [nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU()], max(sides)


def _on_flat(activations: Tensor, side: int) -> tuple[list[nn.Module], int]:
    length = activations[0].numel()
    narrow: list[nn.Module] = []
    if length > MOST_FLAT:
        narrow, length = [nn.Linear(length, MOST_FLAT // 2), nn.ReLU()], MOST_FLAT // 2
    widen = [nn.Linear(length, WIDTH * side**2), nn.ReLU(), nn.Unflatten(1, (WIDTH, side, side))]
    return [nn.Flatten(), *narrow, *widen], side


def train_decoder(activations: Tensor, images: Tensor, epochs: int, seed: int) -> Decoder:
    """Trains a decoder to the least mean squared error; Adam, whose rate falls as half a cosine.

    Args:
        activations: what was seen, shape [n, ...].
        images: what it was computed from, pixels 0..1, shape [n, C, S, S].
        epochs: number of times that each sample is seen.
        seed: seed of the first weights and the order of the samples.
    """
    with global_generators(generator(seed, "leakage", "decoder")):
        decoder = Decoder(activations, images.shape[1:]).to(activations.device)
    optimizer = torch.optim.Adam(decoder.parameters(), LEARNING_RATE)
    steps = epochs * math.ceil(len(images) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator(seed, "leakage", "order", epoch))
        for chosen in order.to(activations.device).split(BATCH_SIZE):
            loss = F.mse_loss(decoder(activations[chosen]), images[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return decoder.eval()


@torch.no_grad()
def reconstruct(decoder: Decoder, activations: Tensor) -> Tensor:
    """Images for activations, in small batches."""
    return torch.cat([decoder(some) for some in activations.split(BATCH_SIZE)])


def mse(images: Tensor, found: Tensor) -> float:
    """Mean squared error of pixels 0..1."""
    return float(F.mse_loss(found, images))


def ssim(images: Tensor, found: Tensor) -> float:
    """Structural similarity, mean over the images; 1 for equal ones.

    Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
    Similarity", IEEE Transactions on Image Processing 13(4), 2004, as torchmetrics computes it.

    Raises:
        UserError: torchmetrics is not installed.
    """
    try:
        from torchmetrics.image import StructuralSimilarityIndexMeasure
    except ImportError as error:
        needs = 'SSIM needs torchmetrics: pip install "pipar_rpc[metrics]"'
        raise UserError(f"{needs} ({error})") from error
    metric = StructuralSimilarityIndexMeasure(data_range=1.0)
    for own, other in zip(images.cpu().split(BATCH_SIZE), found.cpu().split(BATCH_SIZE), strict=True):
        metric.update(other, own)
    figure: Any = metric.compute()
    return float(figure)
