"""Data that is always there: scikit-learn's digits and images made up from the seed."""

from pathlib import Path

import torch
from torch import Tensor

from pipar_rpc.base.random_streams import generator
from pipar_rpc.data.spec import DataSpec, Split, resize


class Digits:
    """scikit-learn's 1,797 handwritten digits (8x8 grey levels), a fifth of them held out for testing."""

    def __init__(self, spec: DataSpec, root: Path, download: bool) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images).unsqueeze(1)  # [n, 1, 8, 8], grey levels 0..16
        self._images = (images * (255 / 16)).round().to(torch.uint8)
        self._labels = torch.from_numpy(bunch.target).long()
        self._image_size = spec.image_size
        order = torch.randperm(len(self._labels), generator=generator(spec.seed, "digits"))
        num_test = len(order) // 5
        self._order = {"test": order[:num_test], "train": order[num_test:]}
        self.classes = tuple(str(digit) for digit in range(10))

    def labels(self, split: Split) -> Tensor:
        """See `Source.labels`."""
        return self._labels[self._order[split]]

    def images(self, split: Split, indices: Tensor) -> Tensor:
        """See `Source.images`."""
        return resize(self._images[self._order[split][indices]], self._image_size)


class Synthetic:
    """Images made up from the seed: a random pattern for each class under noise, so it can be learnt."""

    NUM_TEST = 2000
    NOISE = 96.0  # standard deviation in grey levels

    def __init__(self, spec: DataSpec, root: Path, download: bool) -> None:
        self.classes = tuple(str(label) for label in range(spec.num_classes or 10))
        shape = (len(self.classes), spec.channels, spec.image_size, spec.image_size)
        self._patterns = torch.rand(shape, generator=generator(spec.seed, "patterns")) * 255
        self._sizes = {"train": spec.train_size or 40_000, "test": self.NUM_TEST}
        self._seed = spec.seed

    def labels(self, split: Split) -> Tensor:
        """See `Source.labels`."""
        return torch.arange(self._sizes[split]) % len(self.classes)

    def images(self, split: Split, indices: Tensor) -> Tensor:
        """See `Source.images`."""
        images = self._patterns[self.labels(split)[indices]].clone()
        for image, index in zip(images, indices.tolist(), strict=True):
            rng = generator(self._seed, "synthetic", split, index)
            image.add_(torch.randn(image.shape, generator=rng), alpha=self.NOISE)
        return images.clamp_(0, 255).to(torch.uint8)
