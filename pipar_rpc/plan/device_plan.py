"""One device's part of a job: its checked configuration as plain data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.microbatch import most_micro_batches
from pipar_rpc.base.ranks import holder_of
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.data import DataSpec, Transform
from pipar_rpc.models import (
    CUSTOM,
    UnitSummary,
)
from pipar_rpc.plan.checks import check_split_point
from pipar_rpc.plan.deadlines import DeadlineSpec
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.emulation_schema import TraceEnd
from pipar_rpc.plan.learning_plan import learning_of
from pipar_rpc.plan.model_plan import Network
from pipar_rpc.plan.privacy_plan import privacy_notices, privacy_of
from pipar_rpc.plan.schema import Config
from pipar_rpc.testbed.bandwidth_trace import read_trace
from pipar_rpc.testbed.device_profile import read_profile
from pipar_rpc.testbed.device_speed import SpeedSpec
from pipar_rpc.testbed.link import LinkSpec, RateTrace
from pipar_rpc.testbed.unit_times import UnitTimes


def _transform(config: Config) -> Transform | None:
    """The way from the package's images to network input; data sets of the user's need none."""
    data = config.data
    if data.name == CUSTOM:
        return None
    return Transform(tuple(data.mean), tuple(data.std), data.random_crop, data.random_flip)


def device_job(
    config: Config, rank: int, num_devices: int, data: DataSpec, model: Network, largest_batch: int
) -> DeviceJob:
    """Makes the job of one device.

    Args:
        config: configuration with the device's own overrides merged in.
        rank: number of the device, 1..K.
        num_devices: K.
        data: data set.
        model: summary of the network.
        largest_batch: largest batch size of all devices.
    """
    strategy, num_units = config.resolved_strategy, len(model.units)
    split_point = num_units if strategy.whole_network else config.pipeline.split_point
    labels_stay = config.pipeline.labels_stay
    check_split_point(split_point, num_units, model.spec.name, labels_stay)
    (uplink, downlink), coding = _links(config), _coding(config)
    privacy = privacy_of(config, model, split_point)
    speed = replace(_speed(config, model, largest_batch), coding=coding, privacy=privacy)
    job = DeviceJob(
        rank=rank,
        num_devices=num_devices,
        model=model.spec,
        data=data,
        transform=_transform(config),
        num_units=num_units,
        split_point=num_units,
        num_micro_batches=1,
        batch_size=config.batch_size,
        smallest=model.smallest,
        uplink=uplink,
        downlink=downlink,
        speed=speed,
        coding=coding,
        model_codec=config.compression.models.spec,
        learning=learning_of(config),
        privacy=privacy,
        trained=tuple(unit.num_trained for unit in model.units),
        seed=config.seed,
        deadlines=DeadlineSpec(
            config.fault.timeout_s, config.fault.deadline_factor, config.fault.min_deadline_s
        ),
        labels_stay=labels_stay,
        server=holder_of(rank, num_devices, config.num_servers),
    )
    num_micro_batches = config.pipeline.num_micro_batches if strategy.pipelined else 1
    return cut_job(job, split_point, num_micro_batches, model)


def cut_job(job: DeviceJob, split_point: int, num_micro_batches: int, model: Network) -> DeviceJob:
    """Returns the same job with other cuts.

    Args:
        job: job of the device.
        split_point: P.
        num_micro_batches: N; capped where micro-batches would be too small.
        model: summary of the network.
    """
    job = replace(job, split_point=split_point)
    first, last = model.units[:split_point], model.units[len(model.units) - job.tail_units :]
    flops = sum(unit.flops for unit in (*first, *last))
    speed = replace(job.speed, num_units=split_point, tail_units=job.tail_units)
    cuts = [split_point, job.num_units - job.tail_units] if job.tail_units else [split_point]
    in_transit = _most_in_transit(job, [model.units[cut - 1] for cut in cuts], model.num_bytes)
    slowest = sum(link.worst_seconds(in_transit) for link in (job.uplink, job.downlink))
    return replace(
        job,
        num_micro_batches=min(num_micro_batches, most_micro_batches(job.batch_size, job.smallest)),
        speed=speed,
        emulated_s=slowest + speed.worst_seconds(flops),
    )


def _most_in_transit(job: DeviceJob, units: Sequence[UnitSummary], model_bytes: int) -> int:
    """Returns an upper limit of the bytes that cross between two signs of life.

    It is a mini-batch at each cut, as it is or as its codecs make it where that is more (topk's indices), and
    a network.

    Args:
        job: job of the device.
        units: unit before each cut.
        model_bytes: bytes of the network.
    """
    coding, dtype, total = Coding(job.coding), torch.get_default_dtype(), model_bytes
    for unit in units:
        shape = (job.batch_size, *unit.output_shape)
        coded = max(coding.activation_bytes(shape, dtype), coding.gradient_bytes(shape, dtype))
        total += max(job.batch_size * unit.activation_bytes, coded)
    return total


def check_samples(job: DeviceJob, num_samples: int) -> None:
    """Raises ConfigError if a device with that many samples has no whole batch, or one that is too small."""
    has = f"device {job.rank} has {num_samples} samples"
    if job.batch_size > num_samples:
        raise ConfigError("batch_size", job.batch_size, f"1..{num_samples} ({has})")
    last = num_samples % job.batch_size or job.batch_size
    if last < job.smallest:
        why = f"{has}, so that the last batch has {last}, too few for batch norm in {job.model.name}"
        raise ConfigError("batch_size", job.batch_size, f"another number ({why})")


def _coding(config: Config) -> CodingSpec:
    """The codecs of a device, whose arguments are checked by making them."""
    own = config.compression
    spec = CodingSpec(own.activations.spec, own.gradients.spec)
    Coding(spec)
    build_model_codec(own.models.spec, "compression.models")
    return spec


def _links(config: Config) -> tuple[LinkSpec, LinkSpec]:
    """Makes the emulated uplink and downlink of a device, in real time."""
    network, scale = config.network, config.testbed.time_scale
    if network.trace is None:
        rates = RateTrace.constant(network.uplink_mbps), RateTrace.constant(network.downlink_mbps)
    else:
        rates = read_trace(Path(network.trace), network.trace_end is TraceEnd.loop)
    latency_s, jitter_s = network.latency_ms / 1000 / scale, network.jitter_ms / 1000 / scale
    uplink, downlink = (LinkSpec(rate.scaled(scale), latency_s, jitter_s, bin_s=1 / scale) for rate in rates)
    return uplink, downlink


def _speed(config: Config, model: Network, largest_batch: int) -> SpeedSpec:
    """Makes the speed of a device that holds all units."""
    testbed = config.testbed
    units: tuple[UnitTimes, ...] = ()
    warning = None
    if testbed.profile is not None:
        path = Path(testbed.profile)
        profile = read_profile(path)
        profile.check(path, model.spec, [unit.name for unit in model.units])
        units = profile.times([unit.trained for unit in model.units])
        warning = profile.warning(path)
    speed = SpeedSpec(
        model=model.spec,
        num_units=len(model.units),
        batch_size=largest_batch,
        slowdown=testbed.slowdown,
        calibrate_s=testbed.calibrate_s,
        profile=units,
        time_scale=testbed.time_scale,
        warning=warning,
    )
    if speed.native and testbed.time_scale != 1:
        native = "1 for a device as fast as this machine: its computing cannot be scaled"
        raise ConfigError("testbed.time_scale", testbed.time_scale, native)
    return speed


def notices(
    job: DeviceJob, num_micro_batches: int, strategy: str, pipelined: bool, network: Network
) -> list[str]:
    """Lists what the user should know about how a device's configuration was understood.

    Args:
        job: job of the device.
        num_micro_batches: N as the user asked for it.
        strategy: name of the strategy.
        pipelined: whether the strategy cuts mini-batches at all.
        network: network of the job.
    """
    told = _cut_notices(job, num_micro_batches, strategy, pipelined, network)
    return told + privacy_notices(job, network)


def _cut_notices(
    job: DeviceJob, num_micro_batches: int, strategy: str, pipelined: bool, network: Network
) -> list[str]:
    n, batch_size = num_micro_batches, job.batch_size
    told = []
    if not pipelined:
        held = f"devices hold {job.split_point} of {job.num_units} cut units, one micro-batch"
        return [f"strategy={strategy}: {held}"]
    if n > batch_size:
        told.append(f"pipeline.num_micro_batches={n} is capped at batch_size={batch_size}")
    elif n > job.num_micro_batches:
        needs = f"batch norm in {job.model.name} needs {job.smallest} samples"
        told.append(f"pipeline.num_micro_batches={n} is capped at {job.num_micro_batches}: {needs}")
    if job.num_micro_batches > 1 and network.batch_statistics:
        size = batch_size // job.num_micro_batches
        samples = "1 sample" if size == 1 else f"{size} samples"
        told.append(
            f"model.norm=batch: batch statistics are those of micro-batches of {samples}; "
            "model.norm=group trains exactly as without micro-batches"
        )
    return told


def check_shared_half(sharing: str, jobs: Sequence[DeviceJob]) -> None:
    """Raises ConfigError unless all devices can train one server half, as the setting `sharing` says."""
    first = jobs[0].split_point
    for job in jobs:
        if job.split_point != first:
            same = f"{first} as on device 1: {sharing} has one server half for all devices"
            raise ConfigError(f"devices.overrides.{job.rank}.pipeline.split_point", job.split_point, same)
