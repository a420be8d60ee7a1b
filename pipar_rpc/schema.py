"""The configuration's keys, types and allowed values. The YAML files in conf/ hold the values.

Each class checks itself when it is made.
"""

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipar_rpc.data import OWN, PARTITIONS, PUBLISHED
from pipar_rpc.emulation_schema import NetworkConfig, TestbedConfig
from pipar_rpc.errors import nearest, require
from pipar_rpc.fault_schema import CheckpointConfig, FaultConfig
from pipar_rpc.models import CUSTOM, MODELS, Norm
from pipar_rpc.strategies import STRATEGIES, Method, Strategy


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
        require(self.name in names, "model.name", self.name, f"a known model: {nearest(self.name, names)}")
        own = self.name == CUSTOM
        target = "the dotted name of a function with model=custom, null with the other models"
        require(own == (self._target_ is not None), "model._target_", self._target_, target)
        require(own or not self.args, "model.args", self.args, "empty but with model=custom")


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


@dataclass
class PipelineConfig:
    """Where the network is cut, and into how many micro-batches a mini-batch is."""

    split_point: int = 1
    num_micro_batches: int = 8

    def __post_init__(self) -> None:
        require(self.split_point >= 1, "pipeline.split_point", self.split_point, "1..Q, Q cut units")
        n = self.num_micro_batches
        require(n >= 1, "pipeline.num_micro_batches", n, ">= 1 (more than batch_size is capped)")


@dataclass
class OptimizerConfig:
    """SGD, one instance on each half."""

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "optimizer.lr", self.lr, "> 0")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "0 or more and below 1")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, ">= 0")


@dataclass
class AggregationConfig:
    """How often the devices' networks are averaged."""

    every: int = -1

    def __post_init__(self) -> None:
        allowed = "-1 (once per epoch), 0 (never) or a number of iterations"
        require(self.every >= -1, "aggregation.every", self.every, allowed)


class SflServer(StrEnum):
    """The server's side of split federated learning."""

    replicated = "replicated"
    shared = "shared"


@dataclass
class SflConfig:
    """Split federated learning: a server half for each device, averaged, or one that all train in turn."""

    server: SflServer = SflServer.replicated


@dataclass
class TimelineConfig:
    """Which epochs are recorded span by span."""

    epochs: int = 0
    iteration: int = 2

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "timeline.epochs", self.epochs, ">= 0")
        require(self.iteration >= 1, "timeline.iteration", self.iteration, ">= 1")


@dataclass
class SelectorConfig:
    """Whether P and N are chosen from a profile; see `pipar_rpc.selector`."""

    profile_iterations: int = 0
    method: Method = Method.exhaustive
    split_points: list[int] | None = None
    min_gain: float = 0.1

    def __post_init__(self) -> None:
        runs = self.profile_iterations
        require(runs >= 0, "selector.profile_iterations", runs, ">= 0 (0: P and N are not chosen)")
        gain = self.min_gain
        require(0 <= gain <= 1, "selector.min_gain", gain, "0..1 (1: P and N are not changed)")
        points = self.split_points
        what = "split points from 1, or null for all"
        require(points is None or min(points, default=0) >= 1, "selector.split_points", points, what)


@dataclass
class DevicesConfig:
    """Settings of single devices: `overrides.K` holds any of the keys in `DEVICE_KEYS`."""

    overrides: dict[str, Any] = field(default_factory=dict)


DEVICE = "{device}"  # in a data root: the device's number


@dataclass
class NodeConfig:
    """What is local to a machine and read there: by every rank, from its own command line.

    On one machine the devices also get what the configuration's files say, from rank 0.
    """

    data_root: str = "data"
    download: bool = True
    device: str = "auto"
    threads: int = 1
    interface: str = "auto"
    trusted_network: bool = False
    allow_public: bool = False
    timeout_s: float = 300.0
    memory_limit: float | None = None

    def __post_init__(self) -> None:
        limit = self.memory_limit
        require(limit is None or limit > 0, "node.memory_limit", limit, "> 0 MB, or null for no limit")
        known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        require(known is not None, "node.device", self.device, "auto, cpu, cuda or cuda:i")
        require(self.threads >= 1, "node.threads", self.threads, ">= 1")
        require(self.timeout_s > 0, "node.timeout_s", self.timeout_s, "> 0 seconds")

    def data_path(self, rank: int) -> Path:
        """The data root of a rank as a path: `~` expanded, `{device}` by the device's number or `server`."""
        return Path(self.data_root.replace(DEVICE, str(rank or "server"))).expanduser()


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
    selector: SelectorConfig = field(default_factory=SelectorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    resume: str | None = None
    objective: str | None = None
    overwrite: bool = False
    sfl: SflConfig = field(default_factory=SflConfig)
    timeline: TimelineConfig = field(default_factory=TimelineConfig)
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
        known = f"a known strategy: {nearest(self.strategy, STRATEGIES)}"
        require(self.strategy in STRATEGIES, "strategy", self.strategy, known)
        never = self.strategy == "sl" and self.aggregation.every == 0
        handed_on = "-1 or a number of iterations with strategy=sl, which hands the device half on"
        require(not never, "aggregation.every", self.aggregation.every, handed_on)
        chosen = self.selector.profile_iterations > 0 and self.strategy != "pipar"
        only = "0 but with strategy=pipar: the others' P and N are fixed"
        require(not chosen, "selector.profile_iterations", self.selector.profile_iterations, only)
        name, shared = self.data.name, "another one with data={}, which is the same on every machine"
        owned = self.partition.name != OWN or name not in PUBLISHED
        require(owned, "partition", self.partition.name, shared.format(name))
        n = self.num_devices
        require(n is None or n >= 1, "num_devices", n, ">= 1, or null for all ranks but the server")
        require(self.epochs >= 1, "epochs", self.epochs, ">= 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, ">= 1")
        require(self.seed >= 0, "seed", self.seed, ">= 0")

    @property
    def resolved_strategy(self) -> Strategy:
        """The strategy, with its options."""
        shared = self.strategy == "sfl" and self.sfl.server is SflServer.shared
        strategy = STRATEGIES[self.strategy]
        return replace(strategy, shared_half=True) if shared else strategy
