"""The mini-batches of one device: shuffled anew in every epoch, augmented, normalised."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipar_rpc.base.random_streams import generator
from pipar_rpc.data.samples import Samples


@dataclass(frozen=True)
class Transform:
    """How the package's stored images become network input; applied to whole batches.

    Attributes:
        mean: mean of each channel, of images scaled to 0..1.
        std: standard deviation of each channel.
        random_crop: pixels of zero padding around a training image before a random crop of its own size
            is taken; 0 for none.
        random_flip: whether a training image is mirrored left to right with probability one half.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    random_crop: int = 0
    random_flip: bool = False

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [b, C, H, W] to floats (torch's default type) with the data set's mean and deviation."""
        shape = (1, -1, 1, 1)
        scaled = images.to(torch.get_default_dtype()) / 255
        return (scaled - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)

    def augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Random crops and flips, drawn for each image of the batch on its own."""
        count, _, height, width = images.shape
        if self.random_crop:
            pad = self.random_crop
            offsets = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=rng)
            rows = (offsets[0] + torch.arange(height))[:, None, :, None]
            columns = (offsets[1] + torch.arange(width))[:, None, None, :]
            samples = torch.arange(count)[:, None, None, None]
            channels = torch.arange(images.shape[1])[None, :, None, None]
            images = F.pad(images, (pad, pad, pad, pad))[samples, channels, rows, columns]
        if self.random_flip:
            mirrored = torch.rand(count, generator=rng) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return images


class Batches:
    """Random access to the mini-batches of one device.

    A batch depends on the seed, the device, the epoch and its number alone, so it can be prepared ahead and
    asked for again. The last batch of an epoch may be smaller; no sample is dropped.

    Args:
        data: the device's own samples.
        batch_size: B.
        transform: way from stored images to network input; None for samples that are network input.
        seed: the experiment's seed.
        device: number of the device, 1..K.
        poisson: whether each sample is in each batch with probability B/n instead, n being the number of
            samples; an epoch has as many batches, of which some may be large or empty.
    """

    def __init__(
        self,
        data: Samples,
        batch_size: int,
        transform: Transform | None,
        seed: int,
        device: int,
        poisson: bool = False,
    ) -> None:
        self._data, self._batch_size, self._transform = data, batch_size, transform
        self._stream, self._poisson = (seed, device), poisson

    @property
    def batch_size(self) -> int:
        """B."""
        return self._batch_size

    @property
    def expected(self) -> int:
        """Expected size of batches whose size is drawn at random; 0 where it is not."""
        return self._batch_size if self._poisson else 0

    @property
    def num_samples(self) -> int:
        """Samples of the device."""
        return len(self._data)

    def class_counts(self) -> list[int]:
        """Samples of each class, from 0 to the largest that the device has; one number if none are."""
        return self._data.class_counts()

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self._batch_size)

    def get(self, epoch: int, iteration: int) -> tuple[Tensor, Tensor]:
        """Batch `iteration` (from 0) of `epoch`: inputs [b, ...] and labels [b, ...].

        A data set of the user's draws from the process's global generators, with a stream of its own for
        each batch (`global_generators`): no other thread may draw from them meanwhile.
        """
        seed, device = self._stream
        chosen = self._drawn(epoch, iteration) if self._poisson else self._shuffled(epoch, iteration)
        rng, count = generator(seed, "augment", device, epoch, iteration), len(chosen)
        read = chosen if count else torch.zeros(1, dtype=torch.int64)  # for shape and type of nothing
        inputs, labels = self._data.read(read, rng)
        if self._transform is not None:
            inputs = self._transform.normalise(self._transform.augment(inputs, rng))
        return inputs[:count], labels[:count]

    def _shuffled(self, epoch: int, iteration: int) -> Tensor:
        seed, device = self._stream
        shuffle = generator(seed, "shuffle", device, epoch)
        order = torch.randperm(self.num_samples, generator=shuffle)
        start = iteration * self._batch_size
        return order[start : start + self._batch_size]

    def _drawn(self, epoch: int, iteration: int) -> Tensor:
        seed, device = self._stream
        rng = generator(seed, "poisson", device, epoch, iteration)
        drawn = torch.rand(self.num_samples, generator=rng, dtype=torch.float64)
        return (drawn < self._batch_size / self.num_samples).nonzero().flatten()
