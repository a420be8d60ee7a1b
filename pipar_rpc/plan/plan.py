"""From configuration to plain data: what every rank is to do, checked before anything is started."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from pipar_rpc.aggregation.participation import build_participation
from pipar_rpc.base.errors import UserError
from pipar_rpc.compression.coding import Coding
from pipar_rpc.compression.registry import NONE
from pipar_rpc.data import DataSpec, some_labels
from pipar_rpc.plan.checks import (
    check_fault,
    check_numbers,
    check_own_order,
    check_roots,
    check_selector,
    check_threads,
    resolved_num_devices,
)
from pipar_rpc.plan.data_plan import data_spec, open_data, part_sizes
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.device_plan import (
    check_samples,
    check_shared_half,
    cut_job,
    device_job,
    notices,
)
from pipar_rpc.plan.learning_plan import check_learning
from pipar_rpc.plan.load import for_device, load
from pipar_rpc.plan.model_plan import Network, check_model
from pipar_rpc.plan.placement import placed
from pipar_rpc.plan.privacy_plan import (
    check_dpsgd,
    check_updates,
    with_multiplier,
    with_noise,
)
from pipar_rpc.plan.same_training import deciding_keys
from pipar_rpc.plan.schema import Config
from pipar_rpc.plan.server_schema import halves_notices, order_notices
from pipar_rpc.plan.settings import (
    Checkpointing,
    FaultSettings,
    Labels,
    SelectorSettings,
    Settings,
    faults_of,
    labels_of,
    selector_of,
    settings_of,
)
from pipar_rpc.privacy.cut import CutPrivacy
from pipar_rpc.privacy.registry import build_cut_privacy


@dataclass(frozen=True)
class Plan:
    """A job that has been found possible, as plain data: the configuration ends here.

    Attributes:
        devices: jobs of the devices, in the order of their numbers.
        notices: lines that tell the user how the configuration was understood.
        network: summary of the network.
        settings: settings of training and evaluation.
        labels: names of the job's parts in results.
        checkpoints: settings of saving the job and going on from a checkpoint.
        selector: settings of the choice of P and N.
        faults: settings of devices that leave.
    """

    devices: tuple[DeviceJob, ...]
    notices: tuple[str, ...]
    network: Network
    settings: Settings
    labels: Labels
    checkpoints: Checkpointing
    selector: SelectorSettings
    faults: FaultSettings

    @property
    def cuts(self) -> list[tuple[int, int]]:
        """P and N of each device."""
        return [(job.split_point, job.num_micro_batches) for job in self.devices]

    @property
    def common_cut(self) -> tuple[int, int, Coding, CutPrivacy] | None:
        """P, T, codecs and mechanisms, if all devices have the same and these change activations."""
        cuts = {(job.split_point, repr(job.coding), repr(job.privacy)) for job in self.devices}
        first = self.devices[0]
        as_it_is = first.coding.activations.name == NONE and not first.privacy.changes_activations
        if len(cuts) > 1 or as_it_is or first.split_point == first.num_units:
            return None
        privacy = build_cut_privacy(first.privacy, first.seed)
        return first.split_point, first.tail_units, Coding(first.coding, first.seed), privacy

    @property
    def noise(self) -> list[float | None]:
        """Noise multiplier of DP-SGD on each device; None without it, or while it is still to be found."""
        mechanisms = [job.privacy.dpsgd for job in self.devices]
        return [None if own is None else own.noise_multiplier for own in mechanisms]

    @property
    def lacks_noise(self) -> bool:
        """Whether the noise of a device is still to be found."""
        return any(job.privacy.dpsgd and job.privacy.dpsgd.noise_multiplier is None for job in self.devices)

    def with_noise(self, num_samples: Sequence[int]) -> "Plan":
        """Finds the noise of DP-SGD where a device has a target instead; see `privacy_plan.with_noise`.

        Args:
            num_samples: samples that each device trains on.
        """
        epochs = self.settings.epochs
        pairs = zip(self.devices, num_samples, strict=True)
        return replace(self, devices=tuple(with_noise(job, count, epochs) for job, count in pairs))

    def keep_noise(self, noise: Sequence[float | None]) -> "Plan":
        """Returns the same job with the noise of a checkpoint."""
        pairs = zip(self.devices, noise, strict=True)
        return replace(self, devices=tuple(with_multiplier(job, own) for job, own in pairs))

    def recut(self, choices: Sequence[tuple[int, int]]) -> "Plan":
        """Returns the same job with other (P, N), one pair for each device."""
        devices = [
            cut_job(job, *choice, self.network) for job, choice in zip(self.devices, choices, strict=True)
        ]
        strategy = self.settings.strategy
        told = [
            notice
            for job, (_, number) in zip(devices, choices, strict=True)
            for notice in notices(job, number, self.labels.strategy, strategy.pipelined, self.network)
        ]
        return replace(self, devices=tuple(devices), notices=tuple(dict.fromkeys(told)))


def make_plan(raw: DictConfig, world_size: int, data_root: Path, one_machine: bool) -> Plan:
    """Checks a composed configuration against the models, the data and the ranks.

    Args:
        raw: composed configuration.
        world_size: number of ranks, the servers included.
        data_root: folder of the data sets on this machine.
        one_machine: whether all ranks have this command line, so that all devices see the same data root;
            otherwise they check their own training data.

    Raises:
        UserError: one line that names key, value and allowed range.
    """
    config = load(raw)
    num_devices = resolved_num_devices(config, world_size)
    check_numbers(config, num_devices)
    check_fault(config, num_devices)
    build_participation(config.participation.spec, config.seed, num_devices)
    check_own_order(config)
    check_roots(config, num_devices, one_machine)
    device_configs = _device_configs(raw, config, num_devices)
    source, data = open_data(data_spec(config, device_configs), data_root, config.node.download)
    network = check_model(config, data, num_devices)
    check_selector(config, len(network.units))
    check_updates(config, network)
    devices = []
    largest_batch = max(device.batch_size for device in device_configs)
    for rank, device_config in enumerate(device_configs, start=1):
        with _named(rank, config):
            devices.append(device_job(device_config, rank, num_devices, data, network, largest_batch))
    devices = placed(devices, config, world_size - config.num_servers)
    if config.resolved_strategy.shared_half:
        check_shared_half(config.sharing, devices)
    if one_machine:
        check_threads(config.node, any(job.speed.calibrated for job in devices))
    sizes = part_sizes(source, data, num_devices, one_machine)
    _check_sizes(config, devices, sizes or ())
    config.num_devices = num_devices
    lengths = [-(-size // job.batch_size) for job, size in zip(devices, sizes or (), strict=False)]
    labels = some_labels(source)
    copies = check_learning(config, network, labels, max(lengths, default=1))
    check_dpsgd(devices, network, labels)
    return Plan(
        devices=tuple(devices),
        notices=_notices(config, device_configs, devices, network),
        network=network,
        settings=settings_of(config, copies),
        labels=labels_of(config),
        checkpoints=_checkpointing(config, device_configs, data),
        selector=selector_of(config),
        faults=faults_of(config),
    )


def _check_sizes(config: Config, devices: Sequence[DeviceJob], sizes: Sequence[int]) -> None:
    """Raises UserError for a device with too few samples, for mini-batches or for the epsilon that it has."""
    for job, size in zip(devices, sizes, strict=False):
        with _named(job.rank, config):
            check_samples(job, size)
            with_noise(job, size, config.epochs)


def _checkpointing(config: Config, device_configs: Sequence[Config], data: DataSpec) -> Checkpointing:
    saved, same = config.checkpoint, deciding_keys(config, device_configs, data.partition.indices)
    most_bytes = math.inf if saved.max_mb is None else saved.max_mb * 1e6
    return Checkpointing(saved.every, saved.minutes, saved.keep, most_bytes, config.resume, same)


def _notices(
    config: Config, asked: Sequence[Config], devices: Sequence[DeviceJob], network: Network
) -> tuple[str, ...]:
    if config.selector.profile_iterations:  # P and N are told when they are chosen
        overridden = any("pipeline" in override for override in config.devices.overrides.values())
        ignored = "devices.overrides.*.pipeline does not count: the selector chooses P and N"
        return (*((ignored,) if overridden else ()), *order_notices(config.server.order.name))
    pipelined = config.resolved_strategy.pipelined
    told = halves_notices(*(config.strategy, config.sfl, config.halves, network.batch_statistics)) + [
        notice
        for job, own in zip(devices, asked, strict=True)
        for notice in notices(job, own.pipeline.num_micro_batches, config.strategy, pipelined, network)
    ]
    return tuple(dict.fromkeys(told))


def _device_configs(raw: DictConfig, config: Config, num_devices: int) -> list[Config]:
    """Returns the configuration of each device: `config` itself if nothing is overridden."""
    configs = []
    for rank in range(1, num_devices + 1):
        with _named(rank, config):
            differs = config.devices.overrides.get(str(rank)) is not None
            configs.append(for_device(raw, rank) if differs else config)
    return configs


@contextmanager
def _named(rank: int, config: Config) -> Iterator[None]:
    """Makes an error in the block name the device's overrides, if it has any."""
    prefix = f"devices.overrides.{rank}"
    try:
        yield
    except UserError as error:
        if str(rank) not in config.devices.overrides or str(error).startswith(prefix):
            raise
        raise UserError(f"{prefix}.{error}") from error
