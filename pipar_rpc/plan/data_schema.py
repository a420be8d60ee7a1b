"""The keys of the samples, their types and allowed values: `data` and `partition`."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipar_rpc.base.errors import nearest, require
from pipar_rpc.data import CUSTOM, OWN, PARTITIONS, SOURCES
from pipar_rpc.plan.named import check_named

NO_VALIDATION_IN_TRAINING = (OWN, "file")  # partitions that say of every training sample whose it is


class ValFrom(StrEnum):
    """The splits from which validation samples may be taken."""

    test = "test"
    train = "train"


DEFAULTS = {"random_crop": "0", "random_flip": "false", "train_size": "null"}


@dataclass
class DataConfig:
    """The data set; see `pipar_rpc.data.DataSpec` and `pipar_rpc.data.Transform`."""

    name: str = "digits"
    channels: int = 1
    image_size: int = 32
    num_classes: int | None = 10
    mean: list[float] = field(default_factory=lambda: [0.5])
    std: list[float] = field(default_factory=lambda: [0.5])
    random_crop: int = 0
    random_flip: bool = False
    train_size: int | None = None
    train_size_per_device: int | None = None
    val_size: int = 0
    val_from: ValFrom = ValFrom.test
    test_size: int | None = None
    max_decoded_mb: float = 2000.0
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_named("data", self, SOURCES.keys() - {CUSTOM}, "data set")
        self._check_own()
        require(self.channels in (1, 3), "data.channels", self.channels, "1 or 3")
        require(self.image_size >= 4, "data.image_size", self.image_size, ">= 4")
        for key in ("num_classes", "train_size", "train_size_per_device", "test_size"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"data.{key}", value, ">= 1 or null")
        require(self.val_size >= 0, "data.val_size", self.val_size, ">= 0")
        require(self.random_crop >= 0, "data.random_crop", self.random_crop, ">= 0")
        for key in ("mean", "std"):
            values = getattr(self, key)
            require(len(values) == self.channels, f"data.{key}", values, f"{self.channels} numbers")
        require(min(self.std) > 0, "data.std", self.std, "> 0")
        require(self.max_decoded_mb >= 0, "data.max_decoded_mb", self.max_decoded_mb, ">= 0 (MB)")

    def _check_own(self) -> None:
        """What goes with a data set of the user's, and what does not."""
        own = self.name == CUSTOM
        require(own or not self.args, "data.args", self.args, f"empty but with data={CUSTOM}")
        for key in ("split", "train"):
            given = self.args.get(key)
            require(key not in self.args, f"data.args.{key}", given, "left out: it is given for each split")
        for name in ("random_crop", "random_flip", "train_size"):
            what = f"{DEFAULTS[name]} with data={CUSTOM}, which has transforms and sizes of its own"
            require(not own or not getattr(self, name), f"data.{name}", getattr(self, name), what)


@dataclass
class PartitionConfig:
    """How the training samples are spread over the devices; see `pipar_rpc.data.partition`."""

    name: str = "iid"
    alpha: float = 0.5
    classes_per_device: int = 2
    sizes: list[int] | None = None
    ratios: list[float] | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        known = f"a known partition: {nearest(self.name, PARTITIONS)}"
        require(self.name in PARTITIONS, "partition.name", self.name, known)
        require(self.alpha > 0, "partition.alpha", self.alpha, "> 0")
        held = self.classes_per_device
        require(held >= 1, "partition.classes_per_device", held, ">= 1")
        for key in ("sizes", "ratios"):
            values = getattr(self, key)
            require(values is None or min(values, default=0) > 0, f"partition.{key}", values, "numbers > 0")
        if self.name == "sizes":
            one = "a list, one number for each device; either sizes or ratios"
            require((self.sizes is None) != (self.ratios is None), "partition.sizes", self.sizes, one)
        if self.name == "file":
            require(bool(self.path), "partition.path", self.path, "a JSON file with a list for each device")
