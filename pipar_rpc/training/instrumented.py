"""What the server may ask a device about its clock, its spans and its links."""

from collections.abc import Sequence

from torch import Tensor

from pipar_rpc.testbed.link import Link
from pipar_rpc.testbed.link_rates import Probed
from pipar_rpc.timing.timeline import Span, Timeline, pack
from pipar_rpc.timing.traffic import Passages


class Instrumented(Probed):
    """The part of a device that measures; it takes no part in the training.

    Args:
        timeline: of the device.
        uplink: of the device.
        passed: what left on the uplink and arrived on the downlink.
    """

    def __init__(self, timeline: Timeline, uplink: Link, passed: Passages) -> None:
        self._timeline, self._uplink, self._passed = timeline, uplink, passed
        self._recording, self._recorded = False, list[Span]()

    def record(self, wanted: bool) -> None:
        """Whether `spans` will be asked for."""
        self._recorded.clear()
        self._recording = wanted

    def spans(self) -> Tensor:
        """What was recorded since the last call; see `timeline.pack`."""
        packed = pack(self._recorded + self._timeline.drain())
        self._recorded.clear()
        return packed

    def start_clock(self, elapsed_s: float) -> None:
        """Makes now the time `elapsed_s` of the uplink's trace and traffic."""
        self._uplink.start(elapsed_s)

    def drain_traffic(self) -> list[float]:
        """What the uplink carried; see `Link.drain_traffic`."""
        return self._uplink.drain_traffic()

    def uplink_mbps(self) -> float | None:
        """What the uplink carried lately; see `Link.recent_mbps`."""
        return self._uplink.recent_mbps()

    def passages(self) -> tuple[dict[int, float], dict[int, float]]:
        """When micro-batches left and gradients arrived since the last call; see `Passages.drain_times`."""
        return self._passed.drain_times()

    def _keep(self, spans: Sequence[Span]) -> None:
        """Keeps spans that were drained, if `spans` will be asked for."""
        if self._recording:
            self._recorded += spans
