"""The keys of the samples, their types and allowed values: `data` and `partition`."""

from dataclasses import dataclass, field

from pipar_rpc.base.errors import nearest, require
from pipar_rpc.data import PARTITIONS


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
    test_size: int | None = None

    def __post_init__(self) -> None:
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
