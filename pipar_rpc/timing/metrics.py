"""The figures of an epoch: one definition of each, used everywhere."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from pipar_rpc.timing.stage_recurrence import StageTimes, UShapeTimes, iteration_seconds
from pipar_rpc.timing.timeline import COMPUTE, Busy, Stage

DEVICE_CODING = (Stage.DEVICE_ENCODE, Stage.OUTPUT_DECODE, Stage.RETURN_ENCODE, Stage.DEVICE_DECODE)
SERVER_CODING = (Stage.SERVER_DECODE, Stage.OUTPUT_ENCODE, Stage.RETURN_DECODE, Stage.SERVER_ENCODE)


@dataclass(frozen=True)
class DeviceUsage:
    """What one device and its server half did in an epoch.

    Attributes:
        seconds: wall time that the device spent in training rounds.
        iterations: number of iterations trained.
        stages: busy time of the device's compute stages and uplink, and of its server half and downlink.
        on_device: busy time of the stages that the device itself computed.
        uplink_bytes: payload from the device: micro-batches and models.
        downlink_bytes: payload to the device: what comes back of micro-batches, and models.
        activation_bytes: payload of micro-batches on the uplink: activations and labels, or activations and
            gradients of outputs.
        gradient_bytes: payload of micro-batches on the downlink: gradients, or outputs and gradients.
        saved_bytes: bytes by which payloads were smaller than what they stand for, both ways.
        links_timed: whether the stages hold the links' times; emulated links are timed, real ones are not.
    """

    seconds: float
    iterations: int
    stages: dict[Stage, Busy]
    on_device: dict[Stage, Busy]
    uplink_bytes: int
    downlink_bytes: int
    activation_bytes: int
    gradient_bytes: int
    saved_bytes: int
    links_timed: bool


@dataclass(frozen=True)
class EpochMetrics:
    """Figures of one epoch, in real time unless `scaled`.

    Attributes:
        epoch_time_s: wall seconds on rank 0 from the start of the first round to the end of the last
            aggregation.
        iteration_time_s: a device's wall seconds in training rounds per iteration; mean over the devices.
        server_idle_s: epoch time minus the union of the intervals in which any server half or the
            aggregation computes.
        device_idle_s: epoch time minus the device's compute time; mean over the devices that took part.
        uplink_bytes: payload from all devices.
        downlink_bytes: payload to all devices.
        uplink_mbps: uplink_bytes * 8 / epoch time, in Mbit/s (10^6 bit/s).
        downlink_mbps: downlink_bytes * 8 / epoch time, in Mbit/s.
        device_uplink_mbps: uplink rate of each device, in Mbit/s.
        device_downlink_mbps: downlink rate of each device, in Mbit/s.
        iteration_uplink_bytes: payload of an iteration's micro-batches on the uplink; mean over the devices.
        iteration_downlink_bytes: the same on the downlink.
        compression_ratio: bytes that would have crossed as they are / bytes that crossed. None if none did.
        device_coding_s: seconds that the device's codecs took in an iteration; mean over the devices. None
            where activations and gradients cross as they are.
        server_coding_s: seconds that the codecs of its server half took. None like device_coding_s.
        bound_s: lower limit of an iteration's time by the stage recurrence over the measured mean stage
            times, on the device where it is highest. None where links are not timed.
        efficiency: bound_s / that device's measured seconds per iteration. None where bound_s is.
    """

    epoch_time_s: float
    iteration_time_s: float
    server_idle_s: float
    device_idle_s: float
    uplink_bytes: int
    downlink_bytes: int
    uplink_mbps: float
    downlink_mbps: float
    device_uplink_mbps: tuple[float, ...]
    device_downlink_mbps: tuple[float, ...]
    iteration_uplink_bytes: float
    iteration_downlink_bytes: float
    compression_ratio: float | None
    device_coding_s: float | None
    server_coding_s: float | None
    bound_s: float | None
    efficiency: float | None

    def scaled(self, factor: float) -> "EpochMetrics":
        """Makes all times `factor` times as long: emulated times, if that is `testbed.time_scale`."""
        times = ("epoch_time_s", "iteration_time_s", "server_idle_s", "device_idle_s")
        rates = ("uplink_mbps", "downlink_mbps")
        return dataclasses.replace(
            self,
            **{name: getattr(self, name) * factor for name in times},
            **{name: getattr(self, name) / factor for name in rates},
            device_uplink_mbps=tuple(rate / factor for rate in self.device_uplink_mbps),
            device_downlink_mbps=tuple(rate / factor for rate in self.device_downlink_mbps),
            device_coding_s=_times(self.device_coding_s, factor),
            server_coding_s=_times(self.server_coding_s, factor),
            bound_s=_times(self.bound_s, factor),
        )


def epoch_metrics(epoch_s: float, server_busy_s: float, devices: Sequence[DeviceUsage]) -> EpochMetrics:
    """Computes an epoch's figures.

    Args:
        epoch_s: epoch time.
        server_busy_s: length of the union of the server's compute intervals.
        devices: usage of each device, also of those that have left.
    """
    active = [d for d in devices if d.iterations]  # the others have left
    busy = [sum(b.seconds for stage, b in d.on_device.items() if stage in COMPUTE) for d in active]
    bounds = [_bound(d) for d in active]
    measured = [d.seconds / d.iterations for d in active]
    bound, time_of_bound = max(zip(bounds, measured, strict=True))
    timed = all(d.links_timed for d in active)
    uplinks = tuple(d.uplink_bytes * 8e-6 / epoch_s for d in devices)
    downlinks = tuple(d.downlink_bytes * 8e-6 / epoch_s for d in devices)
    crossed = sum(d.uplink_bytes + d.downlink_bytes for d in devices)
    return EpochMetrics(
        epoch_time_s=epoch_s,
        iteration_time_s=sum(measured) / len(measured),
        server_idle_s=epoch_s - server_busy_s,
        device_idle_s=epoch_s - sum(busy) / len(busy),
        uplink_bytes=sum(d.uplink_bytes for d in devices),
        downlink_bytes=sum(d.downlink_bytes for d in devices),
        uplink_mbps=sum(uplinks),
        downlink_mbps=sum(downlinks),
        device_uplink_mbps=uplinks,
        device_downlink_mbps=downlinks,
        iteration_uplink_bytes=_mean([d.activation_bytes / d.iterations for d in active]),
        iteration_downlink_bytes=_mean([d.gradient_bytes / d.iterations for d in active]),
        compression_ratio=1 + sum(d.saved_bytes for d in devices) / crossed if crossed else None,
        device_coding_s=_coding_s(active, *DEVICE_CODING),
        server_coding_s=_coding_s(active, *SERVER_CODING),
        bound_s=bound if timed else None,
        efficiency=bound / time_of_bound if timed else None,
    )


def _times(seconds: float | None, factor: float) -> float | None:
    return None if seconds is None else seconds * factor


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _coding_s(devices: Sequence[DeviceUsage], *stages: Stage) -> float | None:
    """Seconds of these stages in an iteration, mean over the devices; None if there are none."""
    if not any(stage in device.stages for device in devices for stage in stages):
        return None
    return _mean([sum(d.stages[s].seconds for s in stages if s in d.stages) / d.iterations for d in devices])


def _bound(usage: DeviceUsage) -> float:
    num_micro_batches = max(1, round(usage.stages[Stage.DEVICE_FORWARD].count / usage.iterations))

    def mean(*stages: Stage) -> float:
        total = sum(usage.stages.get(stage, Busy(0.0, 0)).seconds for stage in stages)
        return total / usage.iterations / num_micro_batches

    # What a codec computes belongs to the pass after which, or before which, it is computed.
    forward = mean(Stage.DEVICE_FORWARD, Stage.DEVICE_ENCODE)
    server_forward = mean(Stage.SERVER_DECODE, Stage.SERVER_FORWARD, Stage.OUTPUT_ENCODE)
    server_backward = mean(Stage.RETURN_DECODE, Stage.SERVER_BACKWARD, Stage.SERVER_ENCODE)
    if Stage.SERVER_FORWARD in usage.on_device:  # split point Q: the loss is part of the device's forward
        forward, server_forward, server_backward = forward + server_forward + server_backward, 0.0, 0.0
    times = StageTimes(
        device_forward=forward,
        uplink=mean(Stage.UPLINK),
        server_forward=server_forward,
        server_backward=server_backward,
        downlink=mean(Stage.DOWNLINK),
        device_backward=mean(Stage.DEVICE_DECODE, Stage.DEVICE_BACKWARD),
    )
    if Stage.DEVICE_TAIL in usage.on_device:  # the labels stay on the device
        times = UShapeTimes(
            **vars(times),
            output_downlink=mean(Stage.OUTPUT_DOWNLINK),
            device_tail=mean(Stage.OUTPUT_DECODE, Stage.DEVICE_TAIL, Stage.RETURN_ENCODE),
            return_uplink=mean(Stage.RETURN_UPLINK),
        )
    return float(iteration_seconds(times, num_micro_batches))
