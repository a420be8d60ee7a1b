"""The data sets by name, and what each process loads of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.base.errors import ConfigError, nearest
from pipar_rpc.data.embedded import Digits, Synthetic
from pipar_rpc.data.held_out import split_held_out, validation_in_training
from pipar_rpc.data.imagefolder import ImageFolder
from pipar_rpc.data.own import OwnDataSet
from pipar_rpc.data.partition import partition
from pipar_rpc.data.samples import Files, Images, Samples
from pipar_rpc.data.spec import IN_FILES, DataSpec, Source, Split
from pipar_rpc.data.torchvision_sets import TorchVision

AT_ONCE = 64  # images that are loaded in one go
SOURCES: dict[str, Callable[[DataSpec, Path, bool], Source]] = {
    "digits": Digits,
    "synthetic": Synthetic,
    IN_FILES: ImageFolder,
    CUSTOM: OwnDataSet,
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


def describe(source: Source, spec: DataSpec) -> DataSpec:
    """Adds to a specification what a data set tells of itself on the server.

    These are its classes, and of a data set of the user's shape and type of the input.

    Raises:
        ConfigError: the number of classes is not the configured one.
        UserError: a data set of the user's fails.
    """
    if isinstance(source, OwnDataSet):
        return source.describe()
    classes = len(source.classes)
    if spec.num_classes not in {None, classes}:
        raise ConfigError("data.num_classes", spec.num_classes, f"{classes} for data={spec.name}")
    return replace(spec, classes=source.classes, num_classes=classes)


def some_labels(source: Source) -> Tensor:
    """A few labels of the test split, as the loss gets them: shape [b, ...]."""
    return source.some_labels() if isinstance(source, OwnDataSet) else source.labels("test")[:2]


def load_train_part(
    source: Source,
    spec: DataSpec,
    device: int,
    num_devices: int,
    on_images: Callable[[], None] = lambda: None,
) -> Samples:
    """The training samples of one device (1..K) and of no other.

    Images are kept in memory, but those of files that would take more than `spec.max_decoded_mb`; what a data
    set of the user's keeps is its own affair.

    Args:
        source: source of the samples.
        spec: samples that are wanted.
        device: its number.
        num_devices: K.
        on_images: function called before every few images; what it raises ends the loading.
    """
    labels = source.labels("train", on_images) if isinstance(source, OwnDataSet) else source.labels("train")
    return _load(source, spec, "train", partition(labels, spec, num_devices)[device - 1], on_images)


def load_held_out(source: Source, spec: DataSpec) -> tuple[Samples, Samples]:
    """Validation and test samples, fixed by the seed.

    Disjoint parts of the data set's test split; with `spec.val_from` "train", validation samples are those of
    the training split that no device gets.
    """
    val, test = split_held_out(len(source.labels("test")), spec)
    if spec.val_from == "train" and spec.val_size:
        val = validation_in_training(len(source.labels("train")), spec)
    return _load(source, spec, spec.val_from, val), _load(source, spec, "test", test)


def _load(
    source: Source,
    spec: DataSpec,
    split: Split,
    indices: Tensor,
    on_images: Callable[[], None] = lambda: None,
) -> Samples:
    if isinstance(source, OwnDataSet):
        return source.samples(split, indices, on_images)
    labels = source.labels(split)[indices]
    if len(indices) and not spec.memory_bytes(len(indices)):
        return Files(source, split, indices, labels)
    images = torch.empty(0, dtype=torch.uint8)
    for start in range(0, len(indices), AT_ONCE):
        on_images()
        some = source.images(split, indices[start : start + AT_ONCE])
        images = images if start else some.new_empty(len(indices), *some.shape[1:])
        images[start : start + len(some)] = some
    return Images(images, labels)
