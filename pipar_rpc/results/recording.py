"""All spans of an epoch, from all ranks, on rank 0's clock."""

from dataclasses import dataclass

from pipar_rpc.coordination.epoch_result import EpochResult
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.timing.timeline import Span, union_seconds, unpack
from pipar_rpc.training.device_loop import Device


@dataclass(frozen=True)
class Recording:
    """All spans of an epoch; times are seconds of rank 0's `time.monotonic()`.

    Attributes:
        epoch: number of the epoch, from 1.
        began: time at which the epoch began.
        devices: spans of each device's computation and uplink.
        servers: spans of each device's server half and downlink.
        aggregation: spans of the averages of the networks.
    """

    epoch: int
    began: float
    devices: list[list[Span]]
    servers: list[list[Span]]
    aggregation: list[Span]

    def iteration(self, number: int) -> list[list[Span]]:
        """Returns each device's spans of iteration `number` (from 0) on both sides and both links."""
        pairs = zip(self.devices, self.servers, strict=True)
        return [
            [span for span in (*device, *server) if span.iteration == number and span.micro_batch]
            for device, server in pairs
        ]

    def overlap(self) -> float:
        """Returns how many of a device, its two links and its server half work at a time while any does.

        The result is between 1 (one after the other) and 4; it is the mean over the devices.
        """
        means = []
        for device, server in zip(self.devices, self.servers, strict=True):
            spans = [*device, *server]
            if device:  # it has not left
                busy = sum(span.end - span.start for span in spans)
                means.append(busy / union_seconds(spans) if busy else 1.0)
        return sum(means) / len(means) if means else 1.0


class Recorder:
    """Records the first epochs of a job.

    Args:
        membership: devices that take part.
        epochs: number of epochs to record.
    """

    def __init__(self, membership: Membership, epochs: int) -> None:
        self._membership, self._epochs = membership, epochs
        self._recording = False

    def begin(self, epoch: int) -> None:
        """Has the devices record an epoch (from 1), if it is one of the first; to be called before it."""
        wanted = epoch <= self._epochs
        if wanted != self._recording:
            self._recording = wanted
            self._membership.ask(Device.record, wanted)

    def finish(self, epoch: int, result: EpochResult) -> Recording | None:
        """Returns the spans of the epoch that has just ended, if it was recorded."""
        if not self._recording:
            return None
        packed = self._membership.ask(Device.spans)
        clocks = self._membership.ping(list(packed))
        spans = {handle: unpack(packed[handle], took.clock_offset_s) for handle, took in clocks.items()}
        devices = [spans.get(handle, []) for handle in self._membership.everyone]
        return Recording(epoch, result.began, devices, result.server_spans, result.aggregation_spans)
