"""The data sets by name, and what each process loads of them."""

from collections.abc import Callable
from pathlib import Path

import torch

from pipar_rpc.base.errors import ConfigError, nearest
from pipar_rpc.data.embedded import Digits, Synthetic
from pipar_rpc.data.held_out import split_held_out
from pipar_rpc.data.imagefolder import ImageFolder
from pipar_rpc.data.partition import partition
from pipar_rpc.data.spec import DataSpec, Images, Source
from pipar_rpc.data.torchvision_sets import TorchVision

AT_ONCE = 64  # images that are loaded in one go
SOURCES: dict[str, Callable[[DataSpec, Path, bool], Source]] = {
    "digits": Digits,
    "synthetic": Synthetic,
    "imagefolder": ImageFolder,
    **dict.fromkeys(TorchVision.FILES, TorchVision),
}

PUBLISHED = frozenset({"digits", "synthetic", *TorchVision.FILES})  # the same on every machine


def open_source(spec: DataSpec, root: Path, download: bool) -> Source:
    """Opens the data set `spec.name` below `root`.

    Args:
        spec: data set.
        root: the data root of this machine.
        download: whether files that are missing may be downloaded.

    Raises:
        ConfigError: unknown name.
        MissingDataError: files are missing (some sources notice only when labels or images are asked for).
    """
    if spec.name not in SOURCES:
        raise ConfigError("data.name", spec.name, f"a known data set: {nearest(spec.name, SOURCES)}")
    return SOURCES[spec.name](spec, root, download)


def load_train_part(
    source: Source,
    spec: DataSpec,
    device: int,
    num_devices: int,
    on_images: Callable[[], None] = lambda: None,
) -> Images:
    """The training images of one device (1..K) and of no other; only these are kept in memory.

    Args:
        source: source of the images.
        spec: samples that are wanted.
        device: its number.
        num_devices: K.
        on_images: function called before every few images; what it raises ends the loading.
    """
    labels = source.labels("train")
    indices = partition(labels, spec, num_devices)[device - 1]
    images = torch.empty(0, dtype=torch.uint8)
    for start in range(0, len(indices), AT_ONCE):
        on_images()
        some = source.images("train", indices[start : start + AT_ONCE])
        images = images if start else some.new_empty(len(indices), *some.shape[1:])
        images[start : start + len(some)] = some
    return Images(images, labels[indices])


def load_held_out(source: Source, spec: DataSpec) -> tuple[Images, Images]:
    """Validation and test images: disjoint parts of the data set's test split, fixed by the seed."""
    labels = source.labels("test")
    val, test = split_held_out(len(labels), spec)
    return (
        Images(source.images("test", val), labels[val]),
        Images(source.images("test", test), labels[test]),
    )
