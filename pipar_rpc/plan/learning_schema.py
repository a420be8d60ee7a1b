"""The configuration of what is minimised and how: `optimizer`, `schedule` and `loss`."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipar_rpc.base.errors import ConfigError, UserError, require
from pipar_rpc.learning import LOSSES, OPTIMIZERS, SCHEDULES, LossSpec, OptimizerSpec, ScheduleSpec
from pipar_rpc.learning.metrics import MetricSpec
from pipar_rpc.plan.named import check_named


@dataclass
class OptimizerConfig:
    """The optimiser, of which each half has an instance."""

    name: str = "sgd"
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_all: bool = True
    clip_norm: float | None = None
    clip_value: float | None = None

    def __post_init__(self) -> None:
        check_named("optimizer", self, OPTIMIZERS, "optimiser", default="sgd")
        require(self.lr > 0, "optimizer.lr", self.lr, "> 0")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "0 or more and below 1")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, ">= 0")
        for name, limit in (("clip_norm", self.clip_norm), ("clip_value", self.clip_value)):
            require(limit is None or limit > 0, f"optimizer.{name}", limit, "> 0, or null for no limit")

    def spec(self, proximal_mu: float) -> OptimizerSpec:
        """The optimiser as plain data, with the factor of FedProx's penalty."""
        return OptimizerSpec(
            name=self.name,
            target=self._target_,
            args=self.args,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            decay_all=self.decay_all,
            clip_norm=self.clip_norm,
            clip_value=self.clip_value,
            proximal_mu=proximal_mu,
        )


class Every(StrEnum):
    """The units in which schedules count."""

    epoch = "epoch"
    iteration = "iteration"


@dataclass
class ScheduleConfig:
    """How the optimiser's rate changes."""

    name: str = "constant"
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    every: Every = Every.epoch
    warmup: int = 0

    def __post_init__(self) -> None:
        check_named("schedule", self, SCHEDULES, "schedule", default="constant")
        require(self.warmup >= 0, "schedule.warmup", self.warmup, f">= 0 (number of {self.every}s)")
        args_of_none = self.name != "constant" or not self.args
        require(args_of_none, "schedule.args", self.args, "empty with schedule=constant")

    @property
    def spec(self) -> ScheduleSpec:
        """The schedule as plain data."""
        return ScheduleSpec(self.name, self._target_, self.args, self.every is Every.epoch, self.warmup)


@dataclass
class LossConfig:
    """What is minimised."""

    name: str = "cross_entropy"
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_named("loss", self, LOSSES, "loss", default="cross_entropy")

    @property
    def spec(self) -> LossSpec:
        """The loss as plain data."""
        return LossSpec(self.name, self._target_, self.args)


def metric_specs(metrics: dict[str, Any]) -> dict[str, MetricSpec]:
    """Returns the metrics as plain data; raises UserError."""
    specs = {}
    for name, given in metrics.items():
        key = f"metrics.{name}"
        if not isinstance(given, dict) or not isinstance(given.get("_target_"), str):
            raise ConfigError(
                key, given, f"a group with a dotted name, {key}._target_=torchmetrics.MeanMetric"
            )
        if others := sorted(given.keys() - {"_target_", "args"}):
            raise UserError(f"{key}.{others[0]}: no such key: arguments are {key}.args.{others[0]}")
        specs[name] = MetricSpec(given["_target_"], given.get("args") or {})
    return specs
