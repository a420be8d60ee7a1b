"""From configuration to plain data: what every rank will do, checked before anything is started."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from pipar_rpc.config import for_device, load
from pipar_rpc.data import (
    OWN,
    DataSpec,
    MissingDataError,
    Partition,
    Source,
    open_source,
    partition,
    read_indices,
    split_held_out,
)
from pipar_rpc.device_plan import (
    Network,
    check_model,
    check_samples,
    check_shared_half,
    cut_job,
    device_job,
    notices,
)
from pipar_rpc.errors import ConfigError, UserError
from pipar_rpc.placement import DeviceJob
from pipar_rpc.schema import DEVICE, Config, PipelineConfig
from pipar_rpc.strategies import Method


@dataclass(frozen=True)
class Plan:
    """A job that has been found possible.

    Attributes:
        config: the checked configuration, `num_devices` filled in.
        devices: one entry per device.
        notices: what the user should know about how the configuration was understood.
        own: the configuration as each device sees it.
        network: what is known of the network.
    """

    config: Config
    devices: tuple[DeviceJob, ...]
    notices: tuple[str, ...]
    own: tuple[Config, ...]
    network: Network

    def recut(self, choices: Sequence[tuple[int, int]]) -> "Plan":
        """The same job with other (P, N), one pair for each device."""
        own = [
            replace(config, pipeline=PipelineConfig(*choice))
            for config, choice in zip(self.own, choices, strict=True)
        ]
        devices = [
            cut_job(job, *choice, self.network) for job, choice in zip(self.devices, choices, strict=True)
        ]
        told = [notice for pair in zip(own, devices, strict=True) for notice in notices(*pair)]
        return Plan(self.config, tuple(devices), tuple(dict.fromkeys(told)), tuple(own), self.network)


def make_plan(raw: DictConfig, world_size: int, data_root: Path, one_machine: bool) -> Plan:
    """Checks a composed configuration against the models, the data and the ranks.

    Args:
        raw: the composed configuration.
        world_size: number of ranks, the server included.
        data_root: of this machine.
        one_machine: whether all ranks have this command line, so that the devices see the same data root;
            otherwise they check their own training data.

    Raises:
        UserError: one line that names key, value and allowed range.
    """
    config = load(raw)
    num_devices = _num_devices(config, world_size)
    unknown = sorted(config.devices.overrides.keys() - set(map(str, range(1, num_devices + 1))))
    if unknown:
        raise UserError(f"devices.overrides.{unknown[0]}: devices are numbered 1..{num_devices}")
    _check_fault(config, num_devices)
    _check_roots(config, num_devices, one_machine)
    own = _device_configs(raw, config, num_devices)
    data = _data_spec(config, own)
    source = open_source(data, data_root, config.node.download)
    classes = len(source.classes)
    if data.num_classes not in {None, classes}:
        raise ConfigError("data.num_classes", data.num_classes, f"{classes} for data={data.name}")
    data = replace(data, classes=source.classes, num_classes=classes)
    network = check_model(config, data)
    _check_selector(config, len(network.units))
    devices = []
    largest_batch = max(device.batch_size for device in own)
    for rank, own_config in enumerate(own, start=1):
        with _named(rank, config):
            devices.append(device_job(own_config, rank, num_devices, data, network, largest_batch))
    if config.resolved_strategy.shared_half:
        check_shared_half(config.strategy, devices)
    emulated = any(job.speed.calibrated for job in devices)
    if one_machine and emulated and config.node.threads != 1:
        raise ConfigError("node.threads", config.node.threads, "1 for emulated speed, which times one thread")
    part_sizes = _part_sizes(source, data, num_devices, one_machine)
    for job, size in zip(devices, part_sizes or (), strict=False):
        with _named(job.rank, config):
            check_samples(job, size)
    told = [notice for pair in zip(own, devices, strict=True) for notice in notices(*pair)]
    if config.selector.profile_iterations:
        told = []  # what is chosen is told when it is chosen
        if any("pipeline" in override for override in config.devices.overrides.values()):
            told = ["devices.overrides.*.pipeline does not count: the selector chooses P and N"]
    config.num_devices = num_devices
    return Plan(config, tuple(devices), tuple(dict.fromkeys(told)), tuple(own), network)


def _check_selector(config: Config, num_units: int) -> None:
    points = config.selector.split_points
    if points is None:
        return
    most = num_units - (config.selector.method is Method.paper)
    if max(points) > num_units or min(points) > most:
        raise ConfigError("selector.split_points", points, f"split points of 1..{most} ({config.model.name})")


def _device_configs(raw: DictConfig, config: Config, num_devices: int) -> list[Config]:
    """The configuration as each device sees it."""
    own = []
    for rank in range(1, num_devices + 1):
        with _named(rank, config):
            own.append(for_device(raw, rank))
    return own


@contextmanager
def _named(rank: int, config: Config) -> Iterator[None]:
    """Has an error about a device that has overrides say so."""
    prefix = f"devices.overrides.{rank}"
    try:
        yield
    except UserError as error:
        if str(rank) not in config.devices.overrides or str(error).startswith(prefix):
            raise
        raise UserError(f"{prefix}.{error}") from error


def _num_devices(config: Config, world_size: int) -> int:
    available = world_size - 1
    if available < 1:
        raise UserError("torchrun started 1 rank: at least 2 are needed, --nproc-per-node=1+num_devices")
    if config.num_devices is not None and config.num_devices > available:
        ranks = f"torchrun started {world_size} ranks, and one is the server"
        raise ConfigError("num_devices", config.num_devices, f"1..{available} ({ranks})")
    return config.num_devices or available


def _check_fault(config: Config, num_devices: int) -> None:
    least = config.fault.min_devices
    if least > num_devices:
        raise ConfigError("fault.min_devices", least, f"1..{num_devices}, the number of devices")
    unknown = sorted(config.fault.leave.keys() - set(map(str, range(1, num_devices + 1))))
    if unknown:
        raise UserError(f"fault.leave.{unknown[0]}: devices are numbered 1..{num_devices}")


def _check_roots(config: Config, num_devices: int, one_machine: bool) -> None:
    root = config.node.data_root
    if config.partition.name == OWN and one_machine and num_devices > 1 and DEVICE not in root:
        each = f"another folder for each device, with {DEVICE} in its name (partition=own)"
        raise ConfigError("node.data_root", root, f"{each}: device1 and device2 would read the same")


def _data_spec(config: Config, own: Sequence[Config]) -> DataSpec:
    data, partition = config.data, config.partition
    common = None if partition.name == OWN else data.train_size_per_device  # of what is shared out
    sizes = [device.data.train_size_per_device for device in own]
    return DataSpec(
        name=data.name,
        channels=data.channels,
        image_size=data.image_size,
        num_classes=data.num_classes,
        seed=config.seed,
        train_size_per_device=data.train_size_per_device,
        val_size=data.val_size,
        test_size=data.test_size,
        train_size=data.train_size,
        partition=Partition(
            name=partition.name,
            alpha=partition.alpha,
            classes_per_device=partition.classes_per_device,
            sizes=tuple(partition.sizes or ()),
            ratios=tuple(partition.ratios or ()),
            indices=read_indices(Path(partition.path or "")) if partition.name == "file" else (),
            limits=tuple(size if size != common else None for size in sizes),
            smallest=max(device.batch_size for device in own),
        ),
    )


def _part_sizes(source: Source, spec: DataSpec, num_devices: int, one_machine: bool) -> list[int] | None:
    held_out = source.labels("test")
    split_held_out(len(held_out), spec)
    _check_classes(held_out, spec)
    if spec.partition.name == OWN:  # none of this machine's business
        return None
    try:
        labels = source.labels("train")
    except MissingDataError:
        if one_machine:
            raise
        return None
    _check_classes(labels, spec)
    return [len(part) for part in partition(labels, spec, num_devices)]


def _check_classes(labels: Tensor, spec: DataSpec) -> None:
    found = int(labels.max()) + 1
    if spec.num_classes is not None and found > spec.num_classes:
        raise ConfigError("data.num_classes", spec.num_classes, f"at least {found} for data={spec.name}")
