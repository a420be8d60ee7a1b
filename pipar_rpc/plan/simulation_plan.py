"""From configuration to plain data for a simulation, in which devices are numbers and not processes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from pipar_rpc.aggregation.participation import build_participation
from pipar_rpc.base.errors import ConfigError, require
from pipar_rpc.data import DataSpec, Source
from pipar_rpc.plan.checks import check_fault, check_numbers, check_selector
from pipar_rpc.plan.data_plan import data_spec, open_data
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.device_plan import check_shared_half, device_job
from pipar_rpc.plan.load import for_device, load
from pipar_rpc.plan.model_plan import Network, check_model
from pipar_rpc.plan.schema import Config
from pipar_rpc.plan.server_schema import Half
from pipar_rpc.plan.settings import (
    FaultSettings,
    Labels,
    SelectorSettings,
    Settings,
    faults_of,
    labels_of,
    selector_of,
    settings_of,
)
from pipar_rpc.plan.simulation_spec import SimulationSpec, spec_of
from pipar_rpc.plan.strategies import AUTO, Method, Strategy

DEFAULT_NUM_DEVICES = 4


@dataclass(frozen=True)
class SimulatedKind:
    """Devices that are configured alike, but for what is drawn.

    Attributes:
        job: job of the first of them.
        num_samples: mean number of training samples.
    """

    job: DeviceJob
    num_samples: float


@dataclass(frozen=True)
class SimulationPlan:
    """A job that can be simulated, as plain data.

    Attributes:
        num_devices: K.
        num_servers: number of server processes.
        kinds: devices that are configured alike: those without settings of their own first.
        kind_of: kind of each device that has settings of its own, by its number from 1.
        network: summary of the network.
        settings: settings of the training.
        labels: names of the job's parts in results.
        selector: settings of the choice of P and N.
        faults: settings of devices that leave.
        spec: what a simulation has beyond a training.
    """

    num_devices: int
    num_servers: int
    kinds: tuple[SimulatedKind, ...]
    kind_of: Mapping[int, int]
    network: Network
    settings: Settings
    labels: Labels
    selector: SelectorSettings
    faults: FaultSettings
    spec: SimulationSpec


def make_simulation_plan(raw: DictConfig, data_root: Path) -> SimulationPlan:
    """Checks a composed configuration for a simulation.

    Args:
        raw: composed configuration.
        data_root: folder of the data sets on this machine.

    Raises:
        UserError: one line that names key, value and allowed range.
    """
    config = load(raw)
    count = config.num_devices or DEFAULT_NUM_DEVICES
    own = _with_own_settings(config, count)
    configs = [config, *(for_device(raw, number) for number in own)]
    _check(config, count)
    source, data = open_data(data_spec(config, configs), data_root, config.node.download)
    network = check_model(config, data, count)
    check_selector(config, len(network.units))
    largest = max(own_config.batch_size for own_config in configs)
    jobs = [
        device_job(kind, number, count, data, network, largest)
        for kind, number in zip(configs, [1, *own], strict=True)
    ]
    strategy = _strategy(config)
    if strategy.shared_half:
        check_shared_half(config.strategy, jobs)
    _check_merged(strategy, jobs)
    samples = [_num_samples(kind, source, data, count) for kind in configs]
    kinds = tuple(SimulatedKind(*pair) for pair in zip(jobs, samples, strict=True))
    return SimulationPlan(
        num_devices=count,
        num_servers=config.num_servers,
        kinds=kinds,
        kind_of={number: kind for kind, number in enumerate(own, start=1)},
        network=network,
        settings=replace(settings_of(config, 1.0), strategy=strategy),
        labels=labels_of(config),
        selector=selector_of(config),
        faults=faults_of(config),
        spec=spec_of(config, network),
    )


def _with_own_settings(config: Config, count: int) -> list[int]:
    """Numbers of the devices with settings of their own."""
    check_numbers(config, count)
    return sorted(map(int, config.devices.overrides))


def _check(config: Config, count: int) -> None:
    servers, labels, method = config.num_servers, config.pipeline.labels, config.selector.method
    require(servers <= count, "num_servers", servers, f"1..{count}, the number of devices")
    once = "server in a simulation, in which micro-batches cross once"
    require(not config.pipeline.labels_stay, "pipeline.labels", labels.value, once)
    every = "exhaustive in a simulation, which tries every P"
    require(method is Method.exhaustive, "selector.method", method.value, every)
    order, served = config.server.order.name, "auto or separate in a simulation"
    require(order in {AUTO, "separate"}, "server.order.name", order, served)
    half = config.simulation.server_half
    one = half is not Half.shared or servers == 1
    require(one, "num_servers", servers, "1 with simulation.server_half=shared")
    split = half is None or not (config.resolved_strategy.whole_network or config.resolved_strategy.in_turn)
    only = f"null with strategy={config.strategy}"
    require(split, "simulation.server_half", half and half.value, only)
    check_fault(config, count)
    build_participation(config.participation.spec, config.seed, count)


def _strategy(config: Config) -> Strategy:
    """The training's strategy, with the server half that is simulated."""
    half, strategy = config.simulation.server_half, config.resolved_strategy
    if half is None:
        return strategy
    return replace(strategy, shared_half=half is not Half.replicated, merged=half is Half.merged)


def _check_merged(strategy: Strategy, jobs: list[DeviceJob]) -> None:
    """Raises ConfigError unless the micro-batches of all devices can be computed together."""
    number = jobs[0].num_micro_batches
    for job in jobs:
        if strategy.merged and job.num_micro_batches != number:
            key = f"devices.overrides.{job.rank}.pipeline.num_micro_batches"
            same = f"{number} as of the others: micro-batches of all devices are computed together"
            raise ConfigError(key, job.num_micro_batches, same)


def _num_samples(config: Config, source: Source, data: DataSpec, count: int) -> float:
    """Mean number of training samples of a device; more than the data set has may be asked for."""
    asked = config.data.train_size_per_device
    if asked is not None:
        return float(asked)
    there = len(source.labels("train"))
    if there < count * config.batch_size:
        allowed = f"a number (data={data.name} has {there} training samples for {count} devices)"
        raise ConfigError("data.train_size_per_device", None, allowed)
    return there / count
