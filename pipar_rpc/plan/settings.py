"""A job's settings as plain data: what the rooms above need of the checked configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipar_rpc.aggregation.participation import ParticipationSpec
from pipar_rpc.aggregation.rules import RuleSpec
from pipar_rpc.base.ranks import device_name
from pipar_rpc.learning.metrics import MetricSpec
from pipar_rpc.plan.schema import Config
from pipar_rpc.plan.strategies import Method, Strategy


@dataclass(frozen=True)
class Settings:
    """How a job trains and evaluates.

    Attributes:
        strategy: way in which the devices train together.
        epochs: number of epochs.
        until: accuracies, 0..1, by column of results.csv; the first epoch that has all of them ends the job.
        aggregation_every: iterations between two aggregations; -1 for one in each epoch, 0 for none.
        aggregation_rule: rule by which the devices' networks become the global one.
        participation: policy that chooses the devices of a round.
        optimizer_copies: state of the optimisers as a multiple of the network's size.
        metrics: further metrics of held-out data, by name.
        seed: seed of every random choice.
        weights: file with the first weights; None for random ones.
        strict_weights: whether that file must have exactly the network's tensors.
        val, test: whether the global network is evaluated on validation and test images.
        device_val: whether each device's own network is evaluated on validation images.
        time_scale: number of emulated seconds in a real one.
        recorded_epochs: number of epochs that are recorded span by span.
        drawn_iteration: iteration of the first epoch, from 1, that is drawn as a picture.
    """

    strategy: Strategy
    epochs: int
    until: Mapping[str, float]
    aggregation_every: int
    aggregation_rule: RuleSpec
    participation: ParticipationSpec
    optimizer_copies: float
    metrics: Mapping[str, MetricSpec]
    seed: int
    weights: Path | None
    strict_weights: bool
    val: bool
    test: bool
    device_val: bool
    time_scale: float
    recorded_epochs: int
    drawn_iteration: int


@dataclass(frozen=True)
class Labels:
    """The names of the job's parts in results."""

    strategy: str
    model: str
    data: str
    partition: str
    network: str
    testbed: str
    server_half: str
    server_order: str


@dataclass(frozen=True)
class Checkpointing:
    """How a job is saved, and from where it goes on.

    Attributes:
        every: number of rounds between two checkpoints; 0 for none.
        minutes: least number of real minutes between two checkpoints.
        keep: number of checkpoints that are kept.
        most_bytes: bytes of the checkpoints that are kept, of which the newest stays whatever its size.
        resume: checkpoint or folder of a run from which to go on, or "auto"; None to begin anew.
        same: values of the keys that must be the same in the checkpoint from which a job goes on.
    """

    every: int
    minutes: float
    keep: int
    most_bytes: float
    resume: str | None
    same: Mapping[str, Any]

    def is_due(self, number: int, minutes: float) -> bool:
        """Whether a checkpoint is to be written after a round, so many minutes after the last one."""
        return self.every > 0 and number % self.every == 0 and minutes >= self.minutes

    def num_kept(self, num_bytes: float) -> int:
        """Returns how many checkpoints of this size are kept."""
        return max(1, int(min(self.keep, self.most_bytes / num_bytes)))


@dataclass(frozen=True)
class SelectorSettings:
    """Whether and how P and N are chosen.

    Attributes:
        profile_iterations: number of runs that are measured for each batch size; 0 if nothing is chosen.
        method: method by which N is found.
        split_points: values of P from which to choose; None for all.
        min_gain: share of the predicted time that a change must save.
    """

    profile_iterations: int
    method: Method
    split_points: tuple[int, ...] | None
    min_gain: float


@dataclass(frozen=True)
class FaultSettings:
    """Which devices may leave.

    Attributes:
        min_devices: least number of devices; with fewer left, the job fails.
        leave: round, from 1, before which a device leaves on purpose, by the device's name.
    """

    min_devices: int
    leave: Mapping[str, int]


def settings_of(config: Config, optimizer_copies: float) -> Settings:
    """Returns the settings of training and evaluation.

    Args:
        config: checked configuration.
        optimizer_copies: state of the optimisers as a multiple of the network's size.
    """
    return Settings(
        strategy=config.resolved_strategy,
        epochs=config.epochs,
        until=config.until.targets,
        aggregation_every=config.aggregation.every,
        aggregation_rule=config.aggregation.rule.spec,
        participation=config.participation.spec,
        optimizer_copies=optimizer_copies,
        metrics=config.metric_specs,
        seed=config.seed,
        weights=None if config.model.weights is None else Path(config.model.weights),
        strict_weights=config.model.strict_weights,
        val=config.enable_val,
        test=config.enable_test,
        device_val=config.enable_device_val,
        time_scale=config.testbed.time_scale,
        recorded_epochs=config.timeline.epochs,
        drawn_iteration=config.timeline.iteration,
    )


def labels_of(config: Config) -> Labels:
    """Returns the names that results show."""
    strategy = config.resolved_strategy
    return Labels(
        strategy=config.strategy,
        model=config.model.name,
        data=config.data.name,
        partition=config.partition.name,
        network=config.network.label,
        testbed=config.testbed.label,
        server_half=strategy.server_half,
        server_order="none" if strategy.whole_network else strategy.server_order.called,
    )


def selector_of(config: Config) -> SelectorSettings:
    """Returns the settings of the selector."""
    selector = config.selector
    points = None if selector.split_points is None else tuple(selector.split_points)
    return SelectorSettings(selector.profile_iterations, selector.method, points, selector.min_gain)


def faults_of(config: Config) -> FaultSettings:
    """Returns the settings of devices that leave."""
    leave = {device_name(int(number)): before for number, before in config.fault.leave.items()}
    return FaultSettings(config.fault.min_devices, leave)
