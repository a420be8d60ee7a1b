"""How both halves of a device's network learn, as plain data that can be sent to it."""

from dataclasses import dataclass, field

from pipar_rpc.learning.loss import LossSpec
from pipar_rpc.learning.optimizer import OptimizerSpec
from pipar_rpc.learning.schedule import ScheduleSpec


@dataclass(frozen=True)
class LearningSpec:
    """What is minimised, and how.

    Attributes:
        optimizer: optimiser, of which each half has an instance.
        schedule: schedule of its rate, the same on both halves.
        loss: loss, which the server half computes.
    """

    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    loss: LossSpec = field(default_factory=LossSpec)
