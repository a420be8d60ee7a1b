"""The configuration's keys, their types and allowed values. The YAML files in conf/ hold the values.

Each class checks itself when it is made. Large groups of keys have a file of their own, `<group>_schema.py`.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from pipar_rpc.aggregation.rules import FEDAVG
from pipar_rpc.base.errors import nearest, require
from pipar_rpc.data import OWN, PUBLISHED
from pipar_rpc.learning.metrics import MetricSpec
from pipar_rpc.plan.aggregation_schema import AggregationConfig
from pipar_rpc.plan.compression_schema import CompressionConfig
from pipar_rpc.plan.data_schema import NO_VALIDATION_IN_TRAINING, DataConfig, PartitionConfig
from pipar_rpc.plan.emulation_schema import NetworkConfig, TestbedConfig
from pipar_rpc.plan.fault_schema import CheckpointConfig, FaultConfig
from pipar_rpc.plan.learning_schema import LossConfig, OptimizerConfig, ScheduleConfig, metric_specs
from pipar_rpc.plan.model_schema import ModelConfig
from pipar_rpc.plan.node_schema import NodeConfig
from pipar_rpc.plan.participation_schema import ParticipationConfig
from pipar_rpc.plan.placement_schema import PlacementConfig
from pipar_rpc.plan.privacy_schema import PrivacyConfig
from pipar_rpc.plan.server_schema import Half, ServerConfig, SflConfig, check_order, halves_of
from pipar_rpc.plan.simulation_schema import SimulationConfig
from pipar_rpc.plan.strategies import STRATEGIES, Method, Strategy
from pipar_rpc.plan.until_schema import UntilConfig


class LabelsOn(StrEnum):
    """The side on which labels and loss are."""

    server = "server"
    device = "device"


@dataclass
class PipelineConfig:
    """Where the network is cut, and how many micro-batches a mini-batch is cut into."""

    split_point: int = 1
    num_micro_batches: int = 8
    labels: LabelsOn = LabelsOn.server
    tail_units: int = 1

    def __post_init__(self) -> None:
        require(self.tail_units >= 1, "pipeline.tail_units", self.tail_units, "1..Q-1, Q cut units")
        require(self.split_point >= 1, "pipeline.split_point", self.split_point, "1..Q, Q cut units")
        n = self.num_micro_batches
        require(n >= 1, "pipeline.num_micro_batches", n, ">= 1 (more than batch_size is capped)")

    @property
    def labels_stay(self) -> int:
        """Number of last units that stay on the device with loss and labels; 0 if the labels cross."""
        return self.tail_units if self.labels is LabelsOn.device else 0


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
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    metrics: dict[str, Any] = field(default_factory=dict)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    participation: ParticipationConfig = field(default_factory=ParticipationConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    resume: str | None = None
    objective: str | None = None
    overwrite: bool = False
    server: ServerConfig = field(default_factory=ServerConfig)
    sfl: SflConfig = field(default_factory=SflConfig)
    timeline: TimelineConfig = field(default_factory=TimelineConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    num_devices: int | None = None
    num_servers: int = 1
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    epochs: int = 10
    until: UntilConfig = field(default_factory=UntilConfig)
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
        rule = self.aggregation.rule.name
        averages = self.strategy != "sl" or rule == FEDAVG
        require(averages, "aggregation.rule.name", rule, f"{FEDAVG} with strategy=sl, which never averages")
        everyone = self.participation.spec.everyone or self.aggregation.every != 0
        averaged = "left out, for all devices, where nothing is averaged (aggregation.every=0)"
        require(everyone, *self.participation.chosen_by, averaged)
        mu, strategy = self.aggregation.fedprox_mu, self.strategy
        pulled = mu == 0 or (self.aggregation.every != 0 and strategy != "sl")
        require(pulled, "aggregation.fedprox_mu", mu, f"0 where nothing is averaged (strategy={strategy})")
        chosen = self.selector.profile_iterations > 0 and self.strategy != "pipar"
        only = "0 but with strategy=pipar: the others' P and N are fixed"
        require(not chosen, "selector.profile_iterations", self.selector.profile_iterations, only)
        method = self.selector.method
        crosses_once = method is Method.exhaustive or self.pipeline.labels is LabelsOn.server
        once = "exhaustive with pipeline.labels=device: the paper's formula has one crossing"
        require(crosses_once, "selector.method", method.value, once)
        name, shared = self.data.name, "another one with data={}, which is the same on every machine"
        owned = self.partition.name != OWN or name not in PUBLISHED
        require(owned, "partition", self.partition.name, shared.format(name))
        apart = self.data.val_from == "test" or self.partition.name not in NO_VALIDATION_IN_TRAINING
        all_taken = f"test with partition={self.partition.name}, which says whose each training sample is"
        require(apart, "data.val_from", self.data.val_from, all_taken)
        n = self.num_devices
        require(n is None or n >= 1, "num_devices", n, ">= 1, or null for all ranks but the servers")
        n = self.num_servers
        require(n >= 1, "num_servers", n, ">= 1, the number of ranks that hold server halves")
        apart = n == 1 or not self.resolved_strategy.shared_half
        require(apart, "num_servers", n, f"1 where the devices share one server half ({self.sharing})")
        check_order(self.strategy, self.halves, self.server.order.name, n)
        self._check_merged()
        require(self.epochs >= 1, "epochs", self.epochs, ">= 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, ">= 1")
        self.until.check(self.enable_val, self.enable_test, self.data.val_size, self.aggregation.every)
        require(self.seed >= 0, "seed", self.seed, ">= 0")

    def _check_merged(self) -> None:
        """Raises ConfigError for what one server half does not go with."""
        if not self.resolved_strategy.shared_half:
            return
        runs, same = self.selector.profile_iterations, "P is chosen for each device, and one half needs one P"
        require(runs == 0, "selector.profile_iterations", runs, f"0 with {self.sharing}: {same}")
        if self.halves is not Half.merged:
            return
        labels = "server with server.half=merged, which computes the loss of all devices' samples"
        on_server = self.pipeline.labels is LabelsOn.server
        require(on_server, "pipeline.labels", self.pipeline.labels.value, labels)
        private, key = self.privacy.dpsgd, "privacy.dpsgd.target_epsilon"
        covered = "null with server.half=merged, in which the gradients of devices are not apart"
        require(private.target_epsilon is None, key, private.target_epsilon, covered)
        noise = private.noise_multiplier
        require(noise is None, "privacy.dpsgd.noise_multiplier", noise, covered)

    @property
    def halves(self) -> Half:
        """The server halves."""
        return halves_of(self.strategy, self.server, self.sfl)

    @property
    def sharing(self) -> str:
        """The setting by which the devices share one server half, for errors."""
        key = f"server.half={self.halves.value}" if self.server.half is self.halves else "sfl.server=shared"
        return f"strategy={self.strategy}" + ("" if self.strategy == "sl" else f", {key}")

    @property
    def metric_specs(self) -> dict[str, MetricSpec]:
        """The metrics of held-out data by name; raises UserError."""
        return metric_specs(self.metrics)

    @property
    def resolved_strategy(self) -> Strategy:
        """The strategy with its options."""
        strategy, half = STRATEGIES[self.strategy], self.halves
        return replace(
            strategy,
            keeps_labels=self.pipeline.labels is LabelsOn.device,
            shared_half=strategy.shared_half or half is not Half.replicated,
            merged=half is Half.merged,
            order=self.server.order.choice,
        )
