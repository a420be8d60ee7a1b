"""Rank 0's part: rounds of training on all devices, and the average of their networks in between."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from pipar_rpc.aggregator import average, distribute, hand_over, join
from pipar_rpc.errors import PeerError
from pipar_rpc.fedavg import State, num_bytes
from pipar_rpc.metrics import DeviceUsage, EpochMetrics, epoch_metrics
from pipar_rpc.peer import Peer
from pipar_rpc.round_report import RoundReport
from pipar_rpc.timeline import COMPUTE, Busy, Span, Stage, Timeline, sum_by_stage, union_seconds

POLL_S = 0.2  # how often displays are refreshed and deadlines checked while waiting


@dataclass
class EpochResult:
    """What came of an epoch.

    Attributes:
        metrics: times, bytes and what follows from them.
        losses: of each iteration, mean over the devices that took part in it.
        train_loss: mean over the samples.
        train_accuracy: share of the samples classified correctly while training, 0..1.
        device_peak_rss_mb: of each device.
        late: of each device, by which share of its emulated computing real computing took longer.
        training_s: seconds from the start of each round until the last device had trained, summed up.
        model_bytes: uploaded models of all devices.
        began: `time.monotonic()` at the start.
        server_spans: of each device's server half and downlink.
        aggregation_spans: averages of the networks.
        network: the global network at the end; None if nothing was aggregated.
        device_networks: each device's own network before the last average, if they are kept.
    """

    metrics: EpochMetrics
    losses: list[float]
    train_loss: float
    train_accuracy: float
    device_peak_rss_mb: list[float]
    late: list[float]
    training_s: float
    model_bytes: int
    began: float
    server_spans: list[list[Span]]
    aggregation_spans: list[Span]
    network: State | None
    device_networks: list[State]


@dataclass
class _Usage:
    """Sums over the rounds of an epoch, for one device."""

    reports: list[RoundReport] = field(default_factory=list)
    model_bytes: int = 0
    server_spans: list[Span] = field(default_factory=list)
    downlink_bytes_before: int = 0
    links_timed: bool = True


class Coordinator:
    """Drives the devices through epochs.

    Args:
        peers: the devices.
        every: iterations between two aggregations; -1 for one at the end of each epoch, 0 for none. The end
            of an epoch always ends a round.
        in_turn: whether devices train one after the other and hand the device half on, instead of averaging.
        on_wait: called every now and then while devices work, for displays.
        keep_networks: whether to keep each device's own network, at the cost of their memory.
        on_aggregated: called after each aggregation with (network, epoch, whether the epoch ends); returns
            bytes that each device sent for it.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        every: int,
        in_turn: bool,
        on_wait: Callable[[], None],
        keep_networks: bool = False,
        on_aggregated: Callable[[State, int, bool], Sequence[int]] | None = None,
    ) -> None:
        self._peers, self._every, self._in_turn, self._on_wait = peers, every, in_turn, on_wait
        self._on_aggregated = on_aggregated
        self._handed_on: State | None = None
        self._training_s = 0.0
        self._keep_networks, self._device_networks = keep_networks, list[State]()
        self._timeline = Timeline()

    def train_epoch(self, epoch: int) -> EpochResult:
        """Trains one epoch (from 1) on all devices; raises PeerError or UserError if a device fails."""
        usage = [_Usage(downlink_bytes_before=peer.port.downlink.num_bytes) for peer in self._peers]
        length = max(peer.iterations for peer in self._peers)
        step = self._every if self._every > 0 else length
        network = None
        began, self._training_s = time.monotonic(), 0.0
        play = self._relay if self._in_turn else self._round
        for start in range(0, length, step):
            network = play(epoch, start, start + step, usage)
            if network is not None and self._on_aggregated is not None:
                sent = self._on_aggregated(network, epoch, start + step >= length)
                for sums, num_sent in zip(usage, sent, strict=True):
                    sums.model_bytes += num_sent
        seconds = time.monotonic() - began
        return self._result(began, seconds, usage, network)

    def gather(self) -> State:
        """The average of the networks as they are, without changing them or paying for a transfer."""
        states = self._collect([peer.remote.call("state") for peer in self._peers])
        networks = join(self._peers, states)
        return average(networks, [peer.num_samples for peer in self._peers], Timeline())

    def _round(self, epoch: int, start: int, stop: int, usage: list[_Usage]) -> State | None:
        trained, uploaded, began = [], [], time.monotonic()
        for peer in self._peers:
            peer.port.heard()
            first, last = min(start, peer.iterations), min(stop, peer.iterations)
            trained.append(peer.remote.call("train", epoch, first, last))
            if self._every != 0:  # queued behind the training: starts without waiting for the others
                uploaded.append(peer.remote.call("upload"))
        reports: list[RoundReport] = self._collect(trained)
        self._training_s += time.monotonic() - began
        for peer, sums, report in zip(self._peers, usage, reports, strict=True):
            _note(peer, sums, report)
        return self._aggregate(reports, uploaded, usage) if uploaded else None

    def _relay(self, epoch: int, start: int, stop: int, usage: list[_Usage]) -> State | None:
        """Each device in turn: takes the device half over from the one before it, trains, hands it on."""
        for peer, sums in zip(self._peers, usage, strict=True):
            first, last = min(start, peer.iterations), min(stop, peer.iterations)
            if first == last:
                continue
            if self._handed_on is not None:
                self._collect([hand_over(peer, self._handed_on)], [peer])
            peer.port.heard()
            began = time.monotonic()
            trained = peer.remote.call("train", epoch, first, last)
            uploaded = peer.remote.call("upload")
            (report,) = self._collect([trained], [peer])
            self._training_s += time.monotonic() - began
            _note(peer, sums, report)
            (self._handed_on,) = self._collect([uploaded], [peer])
            sums.model_bytes += num_bytes(self._handed_on)
        assert self._handed_on is not None
        return self._handed_on | self._peers[0].half.state()

    def _aggregate(
        self, reports: list[RoundReport], uploaded: list[Future[Any]], usage: list[_Usage]
    ) -> State:
        states: list[State] = self._collect(uploaded)
        for sums, state in zip(usage, states, strict=True):
            sums.model_bytes += num_bytes(state)
        networks = join(self._peers, states)
        network = average(networks, [report.samples for report in reports], self._timeline)
        if self._keep_networks:
            self._device_networks = [{key: tensor.clone() for key, tensor in own.items()} for own in networks]
        self._collect(distribute(self._peers, states, network))
        return network

    def _collect(self, futures: Sequence[Future[Any]], peers: Sequence[Peer] | None = None) -> list[Any]:
        """The results of one future per peer, of all by default; watches these devices meanwhile."""
        peers = self._peers if peers is None else peers
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
            if any(future.exception() for future in done):
                self._raise_first(done)
            for peer, future in zip(peers, futures, strict=True):
                if future in done:
                    peer.port.heard()
                elif future in pending:
                    _check_alive(peer)
            self._on_wait()
        return [future.result() for future in futures]

    def _raise_first(self, done: set[Future[Any]]) -> None:
        """Raises the cause: an error of a server half rather than of the device that waited for it."""
        for peer in self._peers:
            peer.port.check()
        for future in done:
            future.result()

    def _result(
        self, began: float, seconds: float, usage: list[_Usage], network: State | None
    ) -> EpochResult:
        aggregation = self._timeline.drain()
        for peer, sums in zip(self._peers, usage, strict=True):
            sums.server_spans += peer.timeline.drain()  # the models' way back
        spans = [span for sums in usage for span in sums.server_spans if span.stage in COMPUTE]
        devices = [
            _device_usage(sums, peer.port.downlink.num_bytes)
            for sums, peer in zip(usage, self._peers, strict=True)
        ]
        reports = [report for sums in usage for report in sums.reports]
        samples = sum(report.samples for report in reports)
        return EpochResult(
            metrics=epoch_metrics(seconds, union_seconds(spans + aggregation), devices),
            losses=_mean_losses([[loss for r in sums.reports for loss in r.losses] for sums in usage]),
            train_loss=sum(report.loss for report in reports) / samples,
            train_accuracy=sum(report.correct for report in reports) / samples,
            device_peak_rss_mb=[sums.reports[-1].peak_rss_mb if sums.reports else 0.0 for sums in usage],
            late=[_late(sums.reports) for sums in usage],
            training_s=self._training_s,
            model_bytes=sum(sums.model_bytes for sums in usage),
            began=began,
            server_spans=[sums.server_spans for sums in usage],
            aggregation_spans=aggregation,
            network=network,
            device_networks=self._device_networks,
        )


def _note(peer: Peer, sums: _Usage, report: RoundReport) -> None:
    """Adds a round to the sums, once the server half has done its part of it."""
    peer.port.settle(peer.timeout_s)
    sums.reports.append(report)
    sums.server_spans += peer.timeline.drain()
    sums.links_timed &= peer.links_timed  # as it was in this round


def _late(reports: Sequence[RoundReport]) -> float:
    emulated = sum(report.emulated_s for report in reports)
    return sum(report.late_s for report in reports) / emulated if emulated else 0.0


def _mean_losses(by_device: list[list[float]]) -> list[float]:
    """Mean over the devices, iteration by iteration; some have fewer iterations than others."""
    columns = zip_longest(*by_device)
    present = [[loss for loss in column if loss is not None] for column in columns]
    return [sum(losses) / len(losses) for losses in present]


def _check_alive(peer: Peer) -> None:
    silence = time.monotonic() - peer.port.last_heard
    if silence > peer.timeout_s:
        peer.remote.abandon()
        raise PeerError(
            f"the server waited {silence:.0f} s for {peer.name}, "
            f"last heard of in iteration {peer.port.iteration}"
        )


def _device_usage(sums: _Usage, downlink_bytes: int) -> DeviceUsage:
    on_device: dict[Stage, Busy] = {}
    for report in sums.reports:
        for stage, busy in report.stages.items():
            before = on_device.get(stage, Busy(0.0, 0))
            on_device[stage] = Busy(before.seconds + busy.seconds, before.count + busy.count)
    return DeviceUsage(
        seconds=sum(report.seconds for report in sums.reports),
        iterations=sum(report.iterations for report in sums.reports),
        stages=sum_by_stage(sums.server_spans) | on_device,
        on_device=on_device,
        uplink_bytes=sum(report.uplink_bytes for report in sums.reports) + sums.model_bytes,
        downlink_bytes=downlink_bytes - sums.downlink_bytes_before,
        links_timed=sums.links_timed,
    )
