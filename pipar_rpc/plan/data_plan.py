"""The samples of a job, checked against the data set as far as this machine has it."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.data import (
    OWN,
    DataSpec,
    MissingDataError,
    Partition,
    Source,
    describe,
    open_source,
    partition,
    read_indices,
    split_held_out,
)
from pipar_rpc.plan.schema import Config


def open_data(data: DataSpec, root: Path, download: bool) -> tuple[Source, DataSpec]:
    """Opens the data set, which knows its classes and its inputs.

    Args:
        data: data set.
        root: folder of the data sets on this machine.
        download: whether missing files may be downloaded.

    Raises:
        UserError: the data set is not there, fails, or has another number of classes.
    """
    source = open_source(data, root, download)
    return source, describe(source, data)


def data_spec(config: Config, device_configs: Sequence[Config]) -> DataSpec:
    """Returns the data set and its partition as plain data.

    Args:
        config: checked configuration.
        device_configs: configuration of each device.
    """
    data, partition = config.data, config.partition
    common = None if partition.name == OWN else data.train_size_per_device  # of samples that are shared out
    sizes = [device.data.train_size_per_device for device in device_configs]
    return DataSpec(
        name=data.name,
        channels=data.channels,
        image_size=data.image_size,
        num_classes=data.num_classes,
        seed=config.seed,
        train_size_per_device=data.train_size_per_device,
        val_size=data.val_size,
        val_from=data.val_from.value,
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
            smallest=max(device.batch_size for device in device_configs),
        ),
        max_decoded_mb=data.max_decoded_mb,
        target=data._target_,
        args=data.args,
    )


def part_sizes(source: Source, spec: DataSpec, num_devices: int, one_machine: bool) -> list[int] | None:
    """Returns the number of training samples of each device; None if only the devices have them.

    Args:
        source: data set.
        spec: specification of it.
        num_devices: K.
        one_machine: whether all devices see the data root of this process.

    Raises:
        UserError: samples or classes do not suffice.
    """
    held_out = source.labels("test")
    split_held_out(len(held_out), spec)
    _check_classes(held_out, spec)
    if spec.partition.name == OWN:  # the training samples are on the devices
        return None
    try:
        labels = source.labels("train")
    except MissingDataError:
        if one_machine or (spec.val_from == "train" and spec.val_size):  # which the server reads
            raise
        return None
    _check_classes(labels, spec)
    return [len(part) for part in partition(labels, spec, num_devices)]


def _check_classes(labels: Tensor, spec: DataSpec) -> None:
    least = int(labels.max()) + 1
    if spec.num_classes is not None and least > spec.num_classes:
        raise ConfigError("data.num_classes", spec.num_classes, f"at least {least} for data={spec.name}")
