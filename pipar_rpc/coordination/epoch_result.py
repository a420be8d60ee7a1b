"""The outcome of an epoch: sums over its rounds, and the figures that follow from them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from pipar_rpc.base.ranks import SERVER
from pipar_rpc.base.states import State
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.privacy.gradients import Clipped
from pipar_rpc.timing.metrics import DeviceUsage, EpochMetrics, epoch_metrics
from pipar_rpc.timing.timeline import COMPUTE, Busy, Span, Stage, Timeline, sum_by_stage, union_seconds
from pipar_rpc.training.round_report import RoundReport


@dataclass
class EpochResult:
    """The outcome of an epoch, or of the part of it that was trained.

    Attributes:
        metrics: times, bytes and the figures that follow from them.
        losses: loss of each iteration, mean over the devices that took part in it; None if none did.
        train_loss: mean loss over what counts, which is the samples for most losses.
        train_accuracy: share of the labels classified correctly while training, 0..1; None without classes.
        learning_rate: optimiser's rate in the last iteration; mean over the devices.
        device_peak_rss_mb: largest resident memory of each device's process, in 10^6 bytes.
        late: delay of each device: real computing beyond the emulated time, as a share of that time.
        training_s: seconds from the start of each round until the last device had trained, summed up.
        model_bytes: bytes of the models that all devices uploaded.
        began: `time.monotonic()` at the start.
        server_spans: spans of each device's server half and downlink.
        aggregation_spans: spans of the averages of the networks.
        network: the global network at the end; None if nothing was aggregated.
        device_networks: each device's own network before the last average, if they are kept; None for those
            that were not in it.
        lost: numbers of the devices that have left so far.
        trained: number of devices that trained.
        clipped_share: share of the gradients of single samples that were clipped, over all halves; None
            where none is.
    """

    metrics: EpochMetrics
    losses: list[float | None]
    train_loss: float
    train_accuracy: float | None
    learning_rate: float
    device_peak_rss_mb: list[float]
    late: list[float]
    training_s: float
    model_bytes: int
    began: float
    server_spans: list[list[Span]]
    aggregation_spans: list[Span]
    network: State | None
    device_networks: list[State | None]
    lost: list[int]
    trained: int
    clipped_share: float | None = None


class Counters(NamedTuple):
    """What the server has counted of a device in a job so far, in bytes."""

    downlink: int
    downloaded: int
    saved: int

    @classmethod
    def of(cls, handle: DeviceHandle) -> "Counters":
        """Reads the counters."""
        return cls(handle.port.downlink.num_bytes, handle.downloaded_bytes, handle.saved_bytes)


@dataclass
class Usage:
    """Sums over the rounds of an epoch, for one device."""

    before: "Counters"
    reports: list[RoundReport] = field(default_factory=list)
    model_bytes: int = 0
    server_spans: list[Span] = field(default_factory=list)
    links_timed: bool = True
    clipped: list[Clipped] = field(default_factory=list)


class EpochSums:
    """Collects the figures of an epoch while it is trained. The epoch's time begins when this is made.

    Args:
        handles: all devices, also those that have left.
        first: first iteration that is trained, from 0 within the epoch.

    Attributes:
        training_s: seconds from the start of each round until the last device had trained, summed up.
        aggregation: record of the spans of the averages.
        device_networks: each device's own network before the last average, if they are kept.
    """

    def __init__(self, handles: Sequence[DeviceHandle], first: int = 0) -> None:
        self._first = first
        self._usage = {handle: Usage(Counters.of(handle)) for handle in handles}
        self.training_s, self.aggregation = 0.0, Timeline()
        self.device_networks: Mapping[DeviceHandle, State] = {}
        self._began, self._paused = time.monotonic(), 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time in the block out of the epoch's."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def note(self, handle: DeviceHandle, report: RoundReport) -> None:
        """Adds a round of a device whose server half has done its part of it."""
        sums = self._usage[handle]
        sums.reports.append(report)
        sums.server_spans += handle.timeline.drain()
        sums.clipped += [report.clipped, handle.half.clipped()]
        sums.links_timed &= handle.links_timed  # as it was in this round

    @property
    def samples(self) -> int:
        """Number of samples that were trained so far."""
        return sum(report.samples for sums in self._usage.values() for report in sums.reports)

    def uploaded(self, num_bytes: Mapping[DeviceHandle, int]) -> None:
        """Adds the bytes of models that devices have sent."""
        for handle, size in num_bytes.items():
            self._usage[handle].model_bytes += size

    def result(self, network: State | None) -> EpochResult | None:
        """Returns the figures of the epoch, which ends now; None if no device left had anything to train.

        Args:
            network: the global network at the end; None if nothing was aggregated.
        """
        seconds = time.monotonic() - self._began - self._paused
        if not any(report.iterations for sums in self._usage.values() for report in sums.reports):
            return None
        usage, merging = self._usage, self.aggregation.drain()
        for handle, sums in usage.items():
            sums.server_spans += handle.timeline.drain()  # the models' way back
        devices = [_device_usage(sums, Counters.of(handle)) for handle, sums in usage.items()]
        reports = [report for sums in usage.values() for report in sums.reports]
        return EpochResult(
            metrics=epoch_metrics(seconds, _server_busy_s(usage, merging), devices),
            losses=_mean_losses(usage, self._first),
            train_loss=_ratio([report.loss for report in reports], [report.counted for report in reports])
            or 0.0,
            train_accuracy=_ratio([r.correct for r in reports], [r.classified for r in reports]),
            learning_rate=fmean(rate for s in usage.values() for rate in _last_rate(s.reports)),
            device_peak_rss_mb=[s.reports[-1].peak_rss_mb if s.reports else 0.0 for s in usage.values()],
            late=[_late(sums.reports) for sums in usage.values()],
            training_s=self.training_s,
            model_bytes=sum(sums.model_bytes for sums in usage.values()),
            began=self._began,
            server_spans=[sums.server_spans for sums in usage.values()],
            aggregation_spans=merging,
            network=network,
            device_networks=[self.device_networks.get(handle) for handle in usage],
            lost=[number for number, handle in enumerate(usage, start=1) if not handle.present],
            trained=sum(any(report.iterations for report in sums.reports) for sums in usage.values()),
            clipped_share=_share([clipped for sums in usage.values() for clipped in sums.clipped]),
        )


def _server_busy_s(usage: Mapping[DeviceHandle, Usage], merging: Sequence[Span]) -> float:
    """Time in which a server rank computes; mean over the server ranks. Rank 0 also makes the averages."""
    by_rank: dict[str, list[Span]] = {SERVER: list(merging)}
    for handle, sums in usage.items():
        own = [span for span in sums.server_spans if span.stage in COMPUTE]
        by_rank.setdefault(handle.server, []).extend(own)
    return fmean(map(union_seconds, by_rank.values()))


def _ratio(parts: Sequence[float], wholes: Sequence[float]) -> float | None:
    return sum(parts) / sum(wholes) if sum(wholes) else None


def _share(clipped: Sequence[Clipped]) -> float | None:
    return _ratio([own.samples for own in clipped], [own.of for own in clipped])


def _last_rate(reports: Sequence[RoundReport]) -> list[float]:
    """The rate of the last iteration, if there was one."""
    return [report.learning_rate for report in reports if report.iterations][-1:]


def _late(reports: Sequence[RoundReport]) -> float:
    emulated = sum(report.emulated_s for report in reports)
    return sum(report.late_s for report in reports) / emulated if emulated else 0.0


def _mean_losses(usage: Mapping[DeviceHandle, Usage], first: int) -> list[float | None]:
    """Averages over the devices, iteration by iteration; not all of them train all iterations."""
    by_iteration: dict[int, list[float]] = {}
    for sums in usage.values():
        for report in sums.reports:
            for iteration, loss in enumerate(report.losses, start=report.start):
                by_iteration.setdefault(iteration, []).append(loss)
    last = max(handle.iterations for handle in usage)
    found = (by_iteration.get(iteration) for iteration in range(first, last))
    return [fmean(losses) if losses else None for losses in found]


def _device_usage(sums: Usage, now: Counters) -> DeviceUsage:
    on_device: dict[Stage, Busy] = {}
    for report in sums.reports:
        for stage, busy in report.stages.items():
            before = on_device.get(stage, Busy(0.0, 0))
            on_device[stage] = Busy(before.seconds + busy.seconds, before.count + busy.count)
    reports, earlier = sums.reports, sums.before
    activation_bytes, downlink_bytes = sum(r.uplink_bytes for r in reports), now.downlink - earlier.downlink
    return DeviceUsage(
        seconds=sum(report.seconds for report in sums.reports),
        iterations=sum(report.iterations for report in sums.reports),
        stages=sum_by_stage(sums.server_spans) | on_device,
        on_device=on_device,
        uplink_bytes=activation_bytes + sums.model_bytes,
        downlink_bytes=downlink_bytes,
        activation_bytes=activation_bytes,
        gradient_bytes=downlink_bytes - (now.downloaded - earlier.downloaded),
        saved_bytes=sum(report.saved_bytes for report in reports) + now.saved - earlier.saved,
        links_timed=sums.links_timed,
    )
