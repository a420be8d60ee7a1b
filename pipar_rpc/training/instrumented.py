"""What the server may ask a device about its clock, its spans and its links."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pipar_rpc.testbed.link import Link
from pipar_rpc.testbed.link_rates import LinkTest
from pipar_rpc.timing.timeline import Span, Timeline, pack
from pipar_rpc.timing.traffic import Traffic


@dataclass(frozen=True)
class Instruments:
    """Measuring instruments of a device.

    Attributes:
        timeline: record of the spans of the computation.
        uplink: the emulated uplink, which counts what it carries.
        traffic: record of when micro-batches left on the uplink and gradients arrived on the downlink.
    """

    timeline: Timeline = field(default_factory=Timeline)
    uplink: Link = field(default_factory=Link)
    traffic: Traffic = field(default_factory=Traffic)


class Instrumented(LinkTest):
    """The part of a device that measures; it takes no part in the training."""

    def __init__(self, instruments: Instruments) -> None:
        self._timeline, self._uplink = instruments.timeline, instruments.uplink
        self._traffic = instruments.traffic
        self._recording, self._recorded = False, list[Span]()

    def record(self, wanted: bool) -> None:
        """Begins or ends keeping spans; `wanted` says whether `spans` will be asked for."""
        self._recorded.clear()
        self._recording = wanted

    def spans(self) -> Tensor:
        """Returns the spans that were recorded since the last call; see `timeline.pack`."""
        packed = pack(self._recorded + self._timeline.drain())
        self._recorded.clear()
        return packed

    def start_clock(self, elapsed_s: float) -> None:
        """Sets the clock of the uplink's trace and traffic to `elapsed_s` seconds."""
        self._uplink.start(elapsed_s)

    def drain_traffic(self) -> list[float]:
        """Returns what the uplink carried; see `Link.drain_traffic`."""
        return self._uplink.drain_traffic()

    def uplink_mbps(self) -> float | None:
        """Returns the rate at which the uplink carried lately; see `Link.recent_mbps`."""
        return self._uplink.recent_mbps()

    def traffic_times(self) -> tuple[dict[int, float], dict[int, float]]:
        """Tells when micro-batches left and gradients arrived lately; see `Traffic.drain_times`."""
        return self._traffic.drain_times()

    def _keep(self, spans: Sequence[Span]) -> None:
        """Keeps spans that were drained, if `spans` will be asked for."""
        if self._recording:
            self._recorded += spans
