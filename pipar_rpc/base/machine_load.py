"""What other processes take of this machine's cores, as the kernel counts it."""

import time
from collections.abc import Callable

import psutil


def busy_seconds() -> float:
    """CPU seconds of all processes since the machine started, and what its host took from it."""
    times = psutil.cpu_times()._asdict()
    # guest times are part of user and nice already
    return float(sum(times[name] for name in times if name not in {"idle", "iowait", "guest", "guest_nice"}))


class OtherLoad:
    """Measures from now on what others take.

    Args:
        busy: function that tells the CPU seconds of all processes.
        own: function that tells those of this process.
        clock: wall time in seconds.
        cores: number of the machine's cores; None for what the kernel says.
    """

    def __init__(
        self,
        busy: Callable[[], float] = busy_seconds,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
        cores: int | None = None,
    ) -> None:
        self._busy, self._own, self._clock = busy, own, clock
        self._cores = cores or psutil.cpu_count() or 1
        self._began = self._now()

    def _now(self) -> tuple[float, float, float]:
        return self._busy(), self._own(), self._clock()

    def share(self) -> float:
        """The share of all cores, 0..1, that others have had since the start."""
        busy, own, seconds = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return min(1.0, max(0.0, busy - own) / (seconds * self._cores)) if seconds > 0 else 0.0
