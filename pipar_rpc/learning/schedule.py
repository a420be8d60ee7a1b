"""How the optimiser's rate changes while it trains: torch's schedulers, as a function of the step alone.

A half computes the rate of a step from the schedule's beginning, so nothing has to be saved or sent: layers
that move, devices that come back and trainings that are resumed get the same rate.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.learning.optimizer import OptimizerSpec, make_optimizer

KEY = "schedule"
CONSTANT = "constant"
SCHEDULES: dict[str, Callable[..., LRScheduler | None]] = {
    CONSTANT: lambda: None,
    "cosine": torch.optim.lr_scheduler.CosineAnnealingLR,
    "step": torch.optim.lr_scheduler.StepLR,
    "multistep": torch.optim.lr_scheduler.MultiStepLR,
    "exponential": torch.optim.lr_scheduler.ExponentialLR,
}

Options = list[dict[str, Any]]  # of an optimiser's parameter groups, without the parameters


@dataclass(frozen=True)
class ScheduleSpec(dotted.Choice):
    """All that is needed to make a schedule; plain data, with a name of `SCHEDULES`.

    A custom scheduler takes `optimizer` as torch's do.

    Attributes:
        by_epoch: whether the scheduler counts epochs; if not, iterations.
        warmup: number of these units in which the rate first rises in equal steps to `lr`; the scheduler
            begins after them.
    """

    name: str = CONSTANT
    by_epoch: bool = True
    warmup: int = 0

    @property
    def constant(self) -> bool:
        """Whether the rate never changes."""
        return self.name == CONSTANT and not self.warmup


class Schedule:
    """The options of an optimiser's parameter groups at each step.

    Args:
        spec: schedule.
        optimizer: specification of the optimiser.
        like: optimiser whose groups are scheduled; None for one of a single parameter.

    Raises:
        UserError: no such scheduler, it failed, or it needs more than the step's number.
    """

    def __init__(self, spec: ScheduleSpec, optimizer: OptimizerSpec, like: Optimizer | None = None) -> None:
        self._spec = spec
        self._optimizer = _stand_in(optimizer, like)
        self._base = _options(self._optimizer)
        self._scheduler = _make(spec, self._optimizer)
        self._known = [_options(self._optimizer)]

    def at(self, epoch: int, step: int) -> Options:
        """The options of all groups.

        Args:
            epoch: number of the epoch, from 1.
            step: number of the device's mini-batch since the training began, from 0.
        """
        count = epoch - 1 if self._spec.by_epoch else step
        if count < self._spec.warmup:
            share = (count + 1) / (self._spec.warmup + 1)
            return [{**options, "lr": options["lr"] * share} for options in self._base]
        return self._after(count - self._spec.warmup)

    def _after(self, count: int) -> Options:
        """The options after `count` steps of the scheduler."""
        if self._scheduler is None:
            return self._base
        while len(self._known) <= count:
            self._optimizer.step()  # without gradients: nothing but the order that torch wants
            try:
                self._scheduler.step()
            except Exception as error:
                raise UserError(
                    f"{KEY}={self._spec.called} failed at step {len(self._known)}: {_said(error)}"
                ) from error
            self._known.append(_options(self._optimizer))
        return self._known[count]


def _make(spec: ScheduleSpec, optimizer: Optimizer) -> LRScheduler | None:
    made = dotted.make(KEY, spec, SCHEDULES, {"optimizer": optimizer})
    if spec.name == CONSTANT:
        return None
    if not isinstance(made, LRScheduler) or isinstance(made, ReduceLROnPlateau):
        what = f"the class of an LRScheduler that needs no measurement, not of {type(made).__name__}"
        raise ConfigError(f"{KEY}._target_", spec.target, what)
    return made


def _stand_in(spec: OptimizerSpec, like: Optimizer | None) -> Optimizer:
    """An optimiser with the same groups, of a number each, that nothing but the schedule touches."""
    dimensions = [1] if like is None else [group["params"][0].dim() for group in like.param_groups]
    return make_optimizer(spec, [nn.Parameter(torch.zeros([1] * number)) for number in dimensions])


def _options(optimizer: Optimizer) -> Options:
    return [
        {name: copy.copy(value) for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
