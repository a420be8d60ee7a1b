"""From configuration to plain data: what every rank will do, checked before anything is started."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig

from pipar_rpc.config import Config, for_device, load
from pipar_rpc.data import (
    DataSpec,
    MissingDataError,
    Source,
    Transform,
    open_source,
    partition,
    split_held_out,
)
from pipar_rpc.errors import ConfigError, UserError
from pipar_rpc.fedavg import num_bytes
from pipar_rpc.link import Link
from pipar_rpc.models import ModelSpec, Norm, activation_bytes, build_model
from pipar_rpc.placement import DeviceJob


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
    data = _data_spec(config)
    source = open_source(data, data_root, config.node.download)
    data = replace(data, classes=source.classes, num_classes=len(source.classes))
    part_sizes = _part_sizes(source, data, num_devices, one_machine)
    notices: list[str] = []
    devices = []
    for rank in range(1, num_devices + 1):
        with _named(rank, config):
            own = for_device(raw, rank)
            job = _device_job(own, rank, num_devices, data)
            size = part_sizes[rank - 1] if part_sizes else None
            if size is not None and job.batch_size > size:
                allowed = f"1..{size} (device {rank} has {size} samples)"
                raise ConfigError("batch_size", job.batch_size, allowed)
        devices.append(job)
        notices += _notices(own)
    config.num_devices = num_devices
    return Plan(config, tuple(devices), tuple(dict.fromkeys(notices)))


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


def _data_spec(config: Config) -> DataSpec:
    data = config.data
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
    )


def _part_sizes(source: Source, spec: DataSpec, num_devices: int, one_machine: bool) -> list[int] | None:
    split_held_out(len(source.labels("test")), spec)
    try:
        num_train = len(source.labels("train"))
    except MissingDataError:
        if one_machine:
            raise
        return None
    return [len(part) for part in partition(num_train, spec, num_devices)]


def _device_job(config: Config, rank: int, num_devices: int, data: DataSpec) -> DeviceJob:
    """The part of one device; `config` has the device's own overrides merged in."""
    assert data.num_classes is not None
    model = ModelSpec(config.model.name, config.model.norm, data.channels, data.image_size, data.num_classes)
    split_point, network = config.pipeline.split_point, config.network
    with torch.device("meta"):
        units = build_model(model)
    if split_point > len(units):
        what = f"1..{len(units)} ({model.name} has {len(units)} cut units)"
        raise ConfigError("pipeline.split_point", split_point, what)
    latency_s = network.latency_ms / 1000
    in_transit = activation_bytes(model, split_point, config.batch_size) + num_bytes(units.state_dict())
    slowest = sum(
        Link(mbps, latency_s).seconds(in_transit) for mbps in (network.uplink_mbps, network.downlink_mbps)
    )
    return DeviceJob(
        rank=rank,
        num_devices=num_devices,
        model=model,
        data=data,
        transform=Transform(
            tuple(config.data.mean), tuple(config.data.std), config.data.random_crop, config.data.random_flip
        ),
        split_point=split_point,
        num_micro_batches=min(config.pipeline.num_micro_batches, config.batch_size),
        batch_size=config.batch_size,
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


def _notices(config: Config) -> list[str]:
    n, batch_size = config.pipeline.num_micro_batches, config.batch_size
    notices = []
    if n > batch_size:
        notices.append(f"pipeline.num_micro_batches={n} is capped at batch_size={batch_size}")
    if min(n, batch_size) > 1 and config.model.norm is Norm.batch:
        size = batch_size // min(n, batch_size)
        samples = "1 sample" if size == 1 else f"{size} samples"
        notices.append(
            f"model.norm=batch: batch statistics are those of micro-batches of {samples}; "
            "model.norm=group trains exactly as without micro-batches"
        )
    return notices
