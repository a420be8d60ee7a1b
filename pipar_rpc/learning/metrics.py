"""Further metrics of held-out data: any that torchmetrics has, or objects with the same three methods."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line


@dataclass(frozen=True)
class MetricSpec:
    """All that is needed to make a metric; plain data.

    Attributes:
        target: dotted name of its class, as torchmetrics.classification.MulticlassF1Score.
        args: keyword arguments.
    """

    target: str
    args: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Metric(Protocol):
    """A figure over a whole set of samples."""

    def reset(self) -> None:
        """Forgets what it has seen."""

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Looks at a batch: the network's outputs and the labels, on the CPU."""

    def compute(self) -> Any:
        """The figure of all that it has seen: a number, or a tensor of one."""


class Metrics:
    """The metrics of a job, by the names that the configuration gives them.

    Args:
        specs: metrics by name.

    Raises:
        UserError: no such class, it failed, or it makes no metric.
    """

    def __init__(self, specs: Mapping[str, MetricSpec]) -> None:
        self._targets = {name: spec.target for name, spec in specs.items()}
        self._metrics = {name: _make(f"metrics.{name}", spec) for name, spec in specs.items()}

    def reset(self) -> None:
        """Begins a set of samples."""
        for metric in self._metrics.values():
            metric.reset()

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Shows all of them a batch; raises UserError."""
        for name, metric in self._metrics.items():
            try:
                metric.update(outputs, labels)
            except Exception as error:
                raise self._failed(name, error) from error

    def compute(self) -> dict[str, float]:
        """The figures by name; raises UserError."""
        figures = {}
        for name, metric in self._metrics.items():
            try:
                figures[name] = float(metric.compute())
            except Exception as error:
                raise self._failed(name, error) from error
        return figures

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Raises UserError for a metric that does not take such samples, or whose figure is not one number.

        Args:
            outputs: outputs of a network's shape for a few samples.
            labels: labels of the data set.
        """
        self.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about so few samples
            self.update(outputs, labels)
            self.compute()
        self.reset()

    def _failed(self, name: str, error: Exception) -> UserError:
        where = f"metrics.{name}._target_={self._targets[name]}"
        return UserError(f"{where} failed: {type(error).__name__}: {first_line(error)}")


def _make(key: str, spec: MetricSpec) -> Metric:
    made = dotted.call(f"{key}._target_", spec.target, {}, spec.args)
    if not isinstance(made, Metric):
        what = f"a class with the methods reset, update and compute, not {type(made).__name__}"
        raise ConfigError(f"{key}._target_", spec.target, what)
    return made
