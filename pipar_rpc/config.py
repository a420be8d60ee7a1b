"""The configuration: its keys, types and allowed values. The YAML files in conf/ hold the values.

Hydra composes, `load` turns the result into these classes, and each class checks itself. Config objects end
in experiment.py: everything below takes plain arguments.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from pipar_rpc.errors import ConfigError, UserError, first_line, nearest
from pipar_rpc.models import MODELS, Norm


def _require(accepted: bool, key: str, value: Any, allowed: str) -> None:
    if not accepted:
        raise ConfigError(key, value, allowed)


@dataclass
class ModelConfig:
    """The network."""

    name: str = "vgg5"
    norm: Norm = Norm.batch

    def __post_init__(self) -> None:
        _require(self.name in MODELS, "model.name", self.name, f"a known model: {nearest(self.name, MODELS)}")


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
class NetworkConfig:
    """The emulated links between each device and the server."""

    name: str = "none"
    uplink_mbps: float | None = None
    downlink_mbps: float | None = None
    latency_ms: float = 0.0

    def __post_init__(self) -> None:
        for key in ("uplink_mbps", "downlink_mbps"):
            value = getattr(self, key)
            _require(value is None or value > 0, f"network.{key}", value, "> 0 Mbit/s, or null for no limit")
        _require(self.latency_ms >= 0, "network.latency_ms", self.latency_ms, ">= 0")


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


DEVICE_KEYS = ("pipeline", "network", "batch_size")


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
    network: NetworkConfig = field(default_factory=NetworkConfig)
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
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.strategy == "pipar", "strategy", self.strategy, "pipar")
        n = self.num_devices
        _require(n is None or n >= 1, "num_devices", n, ">= 1, or null for all ranks but the server")
        _require(self.epochs >= 1, "epochs", self.epochs, ">= 1")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, ">= 1")
        _require(self.seed >= 0, "seed", self.seed, ">= 0")


def load(raw: DictConfig) -> Config:
    """Turns a composed configuration into a checked Config; raises UserError with one line."""
    for key in set(_keys(raw)) - set(_keys(OmegaConf.structured(Config))):  # added with Hydra's +key=value
        if not key.startswith("devices.overrides."):
            raise UserError(_unknown(key))
    config = _checked(raw)
    assert isinstance(config, Config)
    return config


def for_device(raw: DictConfig, device: int) -> Config:
    """The configuration as device `device` (1..K) sees it, `devices.overrides.<device>` merged in.

    Raises:
        UserError: one line; about an override if it begins with `devices.overrides.`.
    """
    overrides = raw.devices.overrides.get(str(device))
    if overrides is None:
        return load(raw)
    prefix = f"devices.overrides.{device}"
    if not isinstance(overrides, DictConfig):
        raise ConfigError(prefix, overrides, f"settings of {', '.join(DEVICE_KEYS)}")
    for key in map(str, overrides):
        if key not in DEVICE_KEYS:
            raise UserError(f"{prefix}.{key}: no such key for a single device: {nearest(key, DEVICE_KEYS)}")
    try:
        merged = OmegaConf.merge(raw, overrides)
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix}.{one_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return load(merged)


def node_of(raw: DictConfig) -> NodeConfig:
    """The node section of a composed configuration, checked."""
    node = _checked(raw.node)
    assert isinstance(node, NodeConfig)
    return node


def parse_node(arguments: Sequence[str]) -> NodeConfig:
    """Reads the `node.*` overrides of a command line; all that a device rank reads of it.

    Raises:
        UserError: unknown `node.` key or a value out of range.
    """
    own = [argument.lstrip("+") for argument in arguments if argument.lstrip("+").startswith("node.")]
    try:
        raw = OmegaConf.merge({"node": OmegaConf.structured(NodeConfig)}, OmegaConf.from_dotlist(own))
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error
    assert isinstance(raw, DictConfig)
    return node_of(raw)


def _checked(raw: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(raw)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error


def one_line(error: OmegaConfBaseException) -> str:
    """An OmegaConf error as one line that begins with the full key."""
    key = str(error.full_key or "")
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return _unknown(key)
    reason = first_line(error).rstrip(".")
    return f"{key}: {reason}" if key else reason


def _unknown(key: str) -> str:
    close = difflib.get_close_matches(key, _keys(OmegaConf.structured(Config)), n=1)
    return f"{key}: no such key" + (f": did you mean {close[0]}?" if close else "; README.md lists all keys")


def _keys(raw: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for name, value in raw.items():
        assert isinstance(name, str | int)
        keys.append(f"{prefix}{name}")
        if isinstance(value, DictConfig):
            keys += _keys(value, f"{prefix}{name}.")
    return keys
