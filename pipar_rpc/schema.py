"""The configuration's keys, types and allowed values. The YAML files in conf/ hold the values.

Each class checks itself when it is made.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipar_rpc.data import PARTITIONS
from pipar_rpc.errors import ConfigError, nearest
from pipar_rpc.models import CUSTOM, MODELS, Norm


def _require(accepted: bool, key: str, value: Any, allowed: str) -> None:
    if not accepted:
        raise ConfigError(key, value, allowed)


@dataclass
class ModelConfig:
    """The network."""

    name: str = "vgg5"
    norm: Norm = Norm.batch
    weights: str | None = None
    strict_weights: bool = True
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*MODELS, CUSTOM]
        _require(self.name in names, "model.name", self.name, f"a known model: {nearest(self.name, names)}")
        own = self.name == CUSTOM
        target = "the dotted name of a function with model=custom, null with the other models"
        _require(own == (self._target_ is not None), "model._target_", self._target_, target)
        _require(own or not self.args, "model.args", self.args, "empty but with model=custom")


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
        _require(self.channels in (1, 3), "data.channels", self.channels, "1 or 3")
        _require(self.image_size >= 4, "data.image_size", self.image_size, ">= 4")
        for key in ("num_classes", "train_size", "train_size_per_device", "test_size"):
            value = getattr(self, key)
            _require(value is None or value >= 1, f"data.{key}", value, ">= 1 or null")
        _require(self.val_size >= 0, "data.val_size", self.val_size, ">= 0")
        _require(self.random_crop >= 0, "data.random_crop", self.random_crop, ">= 0")
        for key in ("mean", "std"):
            values = getattr(self, key)
            _require(len(values) == self.channels, f"data.{key}", values, f"{self.channels} numbers")
        _require(min(self.std) > 0, "data.std", self.std, "> 0")


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
        _require(self.name in PARTITIONS, "partition.name", self.name, known)
        _require(self.alpha > 0, "partition.alpha", self.alpha, "> 0")
        held = self.classes_per_device
        _require(held >= 1, "partition.classes_per_device", held, ">= 1")
        for key in ("sizes", "ratios"):
            values = getattr(self, key)
            _require(values is None or min(values, default=0) > 0, f"partition.{key}", values, "numbers > 0")
        if self.name == "sizes":
            one = "a list, one number for each device; either sizes or ratios"
            _require((self.sizes is None) != (self.ratios is None), "partition.sizes", self.sizes, one)
        if self.name == "file":
            _require(bool(self.path), "partition.path", self.path, "a JSON file with a list for each device")


class TraceEnd(StrEnum):
    """What follows the last row of a bandwidth trace."""

    hold = "hold"
    loop = "loop"


@dataclass
class NetworkConfig:
    """The emulated links between each device and the server."""

    name: str = "none"
    uplink_mbps: float | None = None
    downlink_mbps: float | None = None
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    trace: str | None = None
    trace_end: TraceEnd = TraceEnd.hold

    def __post_init__(self) -> None:
        for key in ("uplink_mbps", "downlink_mbps"):
            value = getattr(self, key)
            _require(value is None or value > 0, f"network.{key}", value, "> 0 Mbit/s, or null for no limit")
        for key in ("latency_ms", "jitter_ms"):
            _require(getattr(self, key) >= 0, f"network.{key}", getattr(self, key), ">= 0")

    @property
    def label(self) -> str:
        """What results call the network: the preset's name, or the trace's."""
        return self.name if self.trace is None else Path(self.trace).stem


@dataclass
class TestbedConfig:
    """The emulated devices' speed; see `pipar_rpc.speed.SpeedSpec`."""

    name: str = "native"
    slowdown: float = 1.0
    calibrate_s: float | None = None
    profile: str | None = None
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        _require(self.slowdown > 0, "testbed.slowdown", self.slowdown, "> 0")
        target = self.calibrate_s
        _require(target is None or target > 0, "testbed.calibrate_s", target, "> 0 seconds, or null")
        _require(self.time_scale > 0, "testbed.time_scale", self.time_scale, "> 0")

    @property
    def label(self) -> str:
        """What results call the devices' speed: the profile's name, or the preset's with the slowdown."""
        if self.profile is not None:
            return Path(self.profile).stem
        return self.name if self.slowdown == 1 else f"{self.name}_x{self.slowdown:g}"


@dataclass
class PipelineConfig:
    """Where the network is cut, and into how many micro-batches a mini-batch is."""

    split_point: int = 1
    num_micro_batches: int = 8

    def __post_init__(self) -> None:
        _require(self.split_point >= 1, "pipeline.split_point", self.split_point, "1..Q, Q cut units")
        n = self.num_micro_batches
        _require(n >= 1, "pipeline.num_micro_batches", n, ">= 1 (more than batch_size is capped)")


@dataclass
class OptimizerConfig:
    """SGD, one instance on each half."""

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _require(self.lr > 0, "optimizer.lr", self.lr, "> 0")
        _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "0 or more and below 1")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, ">= 0")


@dataclass
class AggregationConfig:
    """How often the devices' networks are averaged."""

    every: int = -1

    def __post_init__(self) -> None:
        allowed = "-1 (once per epoch), 0 (never) or a number of iterations"
        _require(self.every >= -1, "aggregation.every", self.every, allowed)


@dataclass
class FaultConfig:
    """When a silent process is given up."""

    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        _require(self.timeout_s > 0, "fault.timeout_s", self.timeout_s, "> 0 seconds")


@dataclass
class DevicesConfig:
    """Settings of single devices: `overrides.K` holds any of the keys in `DEVICE_KEYS`."""

    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass
class NodeConfig:
    """What is local to a machine and read there: by every rank, from its own command line."""

    data_root: str = "data"
    download: bool = True
    device: str = "auto"
    threads: int = 1
    interface: str = "auto"
    allow_public: bool = False
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        _require(known is not None, "node.device", self.device, "auto, cpu, cuda or cuda:i")
        _require(self.threads >= 1, "node.threads", self.threads, ">= 1")
        _require(self.timeout_s > 0, "node.timeout_s", self.timeout_s, "> 0 seconds")

    @property
    def data_path(self) -> Path:
        """The data root as a path, `~` expanded."""
        return Path(self.data_root).expanduser()


@dataclass
class Config:
    """Everything that rank 0 is told about one job."""

    experiment_name: str = "pipar"
    strategy: str = "pipar"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    testbed: TestbedConfig = field(default_factory=TestbedConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    num_devices: int | None = None
    epochs: int = 10
    batch_size: int = 100
    enable_val: bool = True
    enable_test: bool = True
    enable_device_val: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.strategy == "pipar", "strategy", self.strategy, "pipar")
        n = self.num_devices
        _require(n is None or n >= 1, "num_devices", n, ">= 1, or null for all ranks but the server")
        _require(self.epochs >= 1, "epochs", self.epochs, ">= 1")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, ">= 1")
        _require(self.seed >= 0, "seed", self.seed, ">= 0")
