"""From configuration to plain data: what every rank will do, checked before anything is started."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from pipar_rpc.config import for_device, load
from pipar_rpc.data import (
    DataSpec,
    MissingDataError,
    Partition,
    Source,
    Transform,
    open_source,
    partition,
    read_indices,
    split_held_out,
)
from pipar_rpc.errors import ConfigError, UserError
from pipar_rpc.fedavg import num_bytes
from pipar_rpc.link import Link
from pipar_rpc.models import (
    CUSTOM,
    ModelSpec,
    Norm,
    UnitSummary,
    build_meta,
    read_weights,
    smallest_batch,
    summarise,
)
from pipar_rpc.placement import DeviceJob
from pipar_rpc.schema import Config


@dataclass(frozen=True)
class Plan:
    """A job that has been found possible.

    Attributes:
        config: the checked configuration, `num_devices` filled in.
        devices: one entry per device.
        notices: what the user should know about how the configuration was understood.
    """

    config: Config
    devices: tuple[DeviceJob, ...]
    notices: tuple[str, ...]


def make_plan(raw: DictConfig, world_size: int, data_root: Path, one_machine: bool) -> Plan:
    """Checks a composed configuration against the models, the data and the ranks.

    Args:
        raw: the composed configuration.
        world_size: number of ranks, the server included.
        data_root: of this machine.
        one_machine: whether the devices see the same data root; otherwise they check their own training data.

    Raises:
        UserError: one line that names key, value and allowed range.
    """
    config = load(raw)
    num_devices = _num_devices(config, world_size)
    unknown = sorted(config.devices.overrides.keys() - set(map(str, range(1, num_devices + 1))))
    if unknown:
        raise UserError(f"devices.overrides.{unknown[0]}: devices are numbered 1..{num_devices}")
    own = _device_configs(raw, config, num_devices)
    data = _data_spec(config, own)
    source = open_source(data, data_root, config.node.download)
    classes = len(source.classes)
    if data.num_classes not in {None, classes}:
        raise ConfigError("data.num_classes", data.num_classes, f"{classes} for data={data.name}")
    data = replace(data, classes=source.classes, num_classes=classes)
    network = _check_model(config, data)
    devices = []
    for rank, own_config in enumerate(own, start=1):
        with _named(rank, config):
            devices.append(_device_job(own_config, rank, num_devices, data, network))
    part_sizes = _part_sizes(source, data, num_devices, one_machine)
    for job, size in zip(devices, part_sizes or (), strict=False):
        with _named(job.rank, config):
            check_samples(job, size)
    notices = [notice for pair in zip(own, devices, strict=True) for notice in _notices(*pair)]
    config.num_devices = num_devices
    return Plan(config, tuple(devices), tuple(dict.fromkeys(notices)))


def check_samples(job: DeviceJob, num_samples: int) -> None:
    """Raises ConfigError if a device with that many samples has no whole batch, or one that is too small."""
    has = f"device {job.rank} has {num_samples} samples"
    if job.batch_size > num_samples:
        raise ConfigError("batch_size", job.batch_size, f"1..{num_samples} ({has})")
    last = num_samples % job.batch_size or job.batch_size
    if last < job.smallest:
        why = f"{has}, so that the last batch has {last}, too few for batch norm in {job.model.name}"
        raise ConfigError("batch_size", job.batch_size, f"another number ({why})")


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


def _data_spec(config: Config, own: Sequence[Config]) -> DataSpec:
    data, partition = config.data, config.partition
    common = data.train_size_per_device
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


@dataclass(frozen=True)
class _Network:
    """What is known of the network before it has numbers."""

    spec: ModelSpec
    units: list[UnitSummary]
    num_bytes: int
    smallest: int


def _check_model(config: Config, data: DataSpec) -> _Network:
    """Checks that the network takes the images and the weights."""
    assert data.num_classes is not None
    model = config.model
    images = (data.channels, data.image_size, data.num_classes)
    spec = ModelSpec(model.name, model.norm, *images, target=model._target_, args=model.args)
    network = build_meta(spec)
    units = summarise(network, spec)
    if model.weights is not None:
        read_weights(Path(model.weights), spec, model.strict_weights)
    return _Network(spec, units, num_bytes(network.state_dict()), smallest_batch(network, spec))


def _part_sizes(source: Source, spec: DataSpec, num_devices: int, one_machine: bool) -> list[int] | None:
    held_out = source.labels("test")
    split_held_out(len(held_out), spec)
    _check_classes(held_out, spec)
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


def _device_job(config: Config, rank: int, num_devices: int, data: DataSpec, model: _Network) -> DeviceJob:
    """The part of one device; `config` has the device's own overrides merged in."""
    split_point, network = config.pipeline.split_point, config.network
    if split_point > len(model.units):
        what = f"1..{len(model.units)} ({model.spec.name} has {len(model.units)} cut units)"
        raise ConfigError("pipeline.split_point", split_point, what)
    latency_s = network.latency_ms / 1000
    in_transit = model.units[split_point - 1].activation_bytes * config.batch_size + model.num_bytes
    slowest = sum(
        Link(mbps, latency_s).seconds(in_transit) for mbps in (network.uplink_mbps, network.downlink_mbps)
    )
    return DeviceJob(
        rank=rank,
        num_devices=num_devices,
        model=model.spec,
        data=data,
        transform=Transform(
            tuple(config.data.mean), tuple(config.data.std), config.data.random_crop, config.data.random_flip
        ),
        split_point=split_point,
        num_micro_batches=max(1, min(config.pipeline.num_micro_batches, config.batch_size // model.smallest)),
        batch_size=config.batch_size,
        smallest=model.smallest,
        uplink_mbps=network.uplink_mbps,
        downlink_mbps=network.downlink_mbps,
        latency_s=latency_s,
        optimizer={
            "lr": config.optimizer.lr,
            "momentum": config.optimizer.momentum,
            "weight_decay": config.optimizer.weight_decay,
        },
        seed=config.seed,
        timeout_s=config.fault.timeout_s + slowest,
    )


def _notices(config: Config, job: DeviceJob) -> list[str]:
    n, batch_size = config.pipeline.num_micro_batches, config.batch_size
    notices = []
    if n > batch_size:
        notices.append(f"pipeline.num_micro_batches={n} is capped at batch_size={batch_size}")
    elif n > job.num_micro_batches:
        needs = f"batch norm in {job.model.name} needs {job.smallest} samples"
        notices.append(f"pipeline.num_micro_batches={n} is capped at {job.num_micro_batches}: {needs}")
    if job.num_micro_batches > 1 and config.model.norm is Norm.batch and config.model.name != CUSTOM:
        size = batch_size // job.num_micro_batches
        samples = "1 sample" if size == 1 else f"{size} samples"
        notices.append(
            f"model.norm=batch: batch statistics are those of micro-batches of {samples}; "
            "model.norm=group trains exactly as without micro-batches"
        )
    return notices
