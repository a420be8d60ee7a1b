"""The terms that all data sets share: what is asked for, what comes back, and what a source must offer."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.base.errors import UserError
from pipar_rpc.base.network_input import NetworkInput

Split = Literal["train", "test"]
IN_FILES = "imagefolder"  # whose images may stay in their files
OWN = "own"  # partition: all that is on a device's machine is its part


class MissingDataError(UserError):
    """Files of the data set are not on this machine."""


class DataSummary(NamedTuple):
    """All that a device tells the server of its data.

    Attributes:
        class_counts: samples of each class that it trains on, from class 0 to the largest that it has; one
            number where labels are no classes or stay on the device.
        roots: `whereabouts` of its data root, if nobody else may read there; otherwise empty.
    """

    class_counts: tuple[int, ...]
    roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """How the training samples are spread over the devices; see `pipar_rpc.data.partition`.

    Attributes:
        name: "iid", "dirichlet", "shards", "sizes", "file" or "own".
        alpha: concentration for "dirichlet"; small values give each class to few devices.
        classes_per_device: number of classes, for "shards".
        sizes: samples of each device, for "sizes".
        ratios: shares of each device, for "sizes".
        indices: samples of each device, for "file".
        limits: number of samples that each device keeps of its part (with "own" at most); None for all.
        smallest: samples that a device must have at least, for "dirichlet".
    """

    name: str = "iid"
    alpha: float = 0.5
    classes_per_device: int = 2
    sizes: tuple[int, ...] = ()
    ratios: tuple[float, ...] = ()
    indices: tuple[tuple[int, ...], ...] = ()
    limits: tuple[int | None, ...] = ()
    smallest: int = 1


@dataclass(frozen=True)
class DataSpec:
    """Which samples an experiment uses; plain data, so that it can be sent to a device.

    Attributes:
        name: a key of `pipar_rpc.data.SOURCES`.
        channels: 1 (grey) or 3 (colour); unused with "custom".
        image_size: height and width in pixels; images of another size are resized. Unused with "custom".
        num_classes: number of classes; None for imagefolder and "custom" until `classes` is known. Where
            labels are no classes, number of the network's outputs, None if that is its own affair.
        seed: seed of the partition and of the split into validation and test.
        train_size_per_device: training samples of each device, on average; None for all samples there are.
        val_size: validation samples.
        val_from: split from which they are taken.
        test_size: test samples; None for all that are left.
        train_size: training samples that synthetic data consists of; unused elsewhere.
        classes: names of the classes, as the server found them; empty where labels are no classes.
        partition: distribution of the training samples over the devices.
        max_decoded_mb: size in MB (10^6 bytes) up to which imagefolder's images are decoded once and for all.
        target: dotted name of what makes a data set of the user's.
        args: keyword arguments for it.
        input: shape and type of its inputs, as the server found them.
    """

    name: str
    channels: int
    image_size: int
    num_classes: int | None
    seed: int
    train_size_per_device: int | None = None
    val_size: int = 0
    val_from: Split = "test"
    test_size: int | None = None
    train_size: int | None = None
    classes: tuple[str, ...] = ()
    partition: Partition = Partition()
    max_decoded_mb: float = float("inf")
    target: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    input: NetworkInput | None = None

    @property
    def has_classes(self) -> bool:
        """Whether labels are class numbers; of a data set of the user's, as the server found them."""
        return self.name != CUSTOM or bool(self.classes)

    def memory_bytes(self, num_images: int) -> int:
        """Bytes of so many images in memory, as uint8; 0 where they stay in files.

        What a data set of the user's keeps is its own affair, and counts as nothing.
        """
        size = num_images * self.channels * self.image_size**2
        in_files = self.name == IN_FILES and size > self.max_decoded_mb * 1e6
        return 0 if in_files or self.name == CUSTOM else size


class Source(Protocol):
    """A data set on this machine. Labels are cheap to ask for; images are loaded for given indices only."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where labels are no classes."""

    def labels(self, split: Split) -> Tensor:
        """Class numbers of a whole split: int64 of shape [n], all 0 where labels are no classes.

        Raises MissingDataError.
        """

    def images(self, split: Split, indices: Tensor) -> Tensor:
        """Images at `indices`: uint8 of shape [len(indices), C, H, W]. Raises MissingDataError."""


def resize(images: Tensor, image_size: int) -> Tensor:
    """Resizes uint8 images [n, C, H, W] to squares of `image_size` pixels (bilinear)."""
    if images.shape[-2:] == (image_size, image_size):
        return images
    resized = F.interpolate(images.float(), size=(image_size, image_size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
