"""Loss, optimiser and schedule as plain data, after each has been tried."""

import torch
from torch import Tensor

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.learning import LearningSpec
from pipar_rpc.learning.loss import check_loss
from pipar_rpc.learning.metrics import Metrics
from pipar_rpc.learning.optimizer import try_optimizer
from pipar_rpc.learning.schedule import Schedule
from pipar_rpc.plan.model_plan import Network
from pipar_rpc.plan.schema import Config


def learning_of(config: Config) -> LearningSpec:
    """Returns what is minimised and how."""
    optimizer = config.optimizer.spec(config.aggregation.fedprox_mu)
    return LearningSpec(optimizer, config.schedule.spec, config.loss.spec)


def check_learning(config: Config, network: Network, labels: Tensor, iterations: int) -> float:
    """Tries optimiser, schedule, loss and metrics.

    Args:
        config: checked configuration.
        network: summary of the network.
        labels: some labels of the data set, shape [b, ...], at least one.
        iterations: iterations of an epoch on the device with the most; 1 if they are not known.

    Returns:
        State of the optimiser as a multiple of the network's size.

    Raises:
        UserError: one of them cannot be made, or does not fit.
    """
    learning = learning_of(config)
    outputs = torch.zeros(len(labels), *network.units[-1].output_shape)
    copies = try_optimizer(learning.optimizer, network.trained_dims)
    if not learning.schedule.constant:
        _check_schedule(Schedule(learning.schedule, learning.optimizer), config, iterations)
    check_loss(learning.loss, outputs, labels)
    Metrics(config.metric_specs).check(outputs, labels)
    return copies


def _check_schedule(schedule: Schedule, config: Config, iterations: int) -> None:
    """Looks at all rates, as far as the number of iterations is known."""
    count = config.epochs * (1 if config.schedule.spec.by_epoch else iterations)
    for number in range(count):
        for options in schedule.at(number + 1, number):
            rate = float(options["lr"])
            if not 0 <= rate < float("inf"):
                raise ConfigError("schedule", f"{rate:g} at step {number}", "rates of 0 or more")
