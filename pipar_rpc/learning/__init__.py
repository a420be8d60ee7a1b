"""What is minimised and how: the loss, the optimiser of each half, the schedule of its rate."""

from pipar_rpc.learning.loss import LOSSES, Criterion, LossSpec
from pipar_rpc.learning.optimizer import OPTIMIZERS, OptimizerSpec
from pipar_rpc.learning.schedule import SCHEDULES, ScheduleSpec
from pipar_rpc.learning.spec import LearningSpec

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "Criterion",
    "LearningSpec",
    "LossSpec",
    "OptimizerSpec",
    "ScheduleSpec",
]
