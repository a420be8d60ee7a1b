"""What rank 0 shows of the emulated testbed: what the links carried, and whether the times are true."""

import logging
from collections import defaultdict
from collections.abc import Sequence

from pipar_rpc.coordination.epoch_result import EpochResult
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.results import tags
from pipar_rpc.results.columns import Row
from pipar_rpc.results.outputs import Outputs
from pipar_rpc.training.device_loop import Device

log = logging.getLogger(__name__)

TOLERANCE = 0.05  # share of the time that may be wrong before the user is warned


class Throughput:
    """Curves of what each link carried in every emulated second of the training.

    Args:
        membership: devices that take part.
        outputs: files that receive the curves.
        elapsed_s: real seconds of training before this process began.
        time_scale: emulated seconds in a real one.
    """

    def __init__(self, membership: Membership, outputs: Outputs, elapsed_s: float, time_scale: float) -> None:
        self._membership, self._outputs = membership, outputs
        self._reported: dict[str, int] = defaultdict(lambda: int(elapsed_s * time_scale))
        for handle in membership.handles:
            handle.port.downlink.start(elapsed_s)
        membership.ask(Device.start_clock, elapsed_s)

    def report(self) -> None:
        """Writes the curves for the seconds that have ended since the last call."""
        for handle, uplink in self._membership.ask(Device.drain_traffic).items():
            self._add(f"uplink_mbps/{handle.name}", uplink)
            self._add(f"downlink_mbps/{handle.name}", handle.port.downlink.drain_traffic())

    def _add(self, name: str, traffic: Sequence[float]) -> None:
        start = self._reported[name]
        self._reported[name] = start + len(traffic)
        mbps = [num_bytes * 8e-6 for num_bytes in traffic]
        self._outputs.curve(f"{tags.THROUGHPUT}/{name}", mbps, start)


class Watch:
    """Warns, once for each reason, when the times of an emulated testbed are not what they should be.

    Args:
        time_scale: emulated seconds in a real one.
    """

    def __init__(self, time_scale: float) -> None:
        self._time_scale = time_scale
        self._warned: set[str] = set()

    def check(self, result: EpochResult, row: Row) -> None:
        """Checks an epoch; `row` is its row of results.csv."""
        scale = self._time_scale
        share, number = max((share, number) for number, share in enumerate(result.late, start=1))
        if share > TOLERANCE:
            self._warn(
                "late",
                f"this machine is too slow to emulate {len(result.late)} devices: computing for "
                f"device{number} took {share:.0%} longer than on the emulated device; fewer devices, or a "
                f"testbed.time_scale below {scale:g}, give it more time",
            )
        busy = 1 - row["server_idle_s"] / row["epoch_time_s"]
        if busy * (1 - 1 / scale) > TOLERANCE:
            self._warn(
                "server",
                f"testbed.time_scale={scale:g} speeds up emulated devices and links only: the server's own "
                f"computing, {busy:.0%} of the epoch, is shown {scale:g} times as long as it is",
            )

    def _warn(self, reason: str, message: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            log.warning(message)
