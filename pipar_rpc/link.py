"""Emulated links: how long a message takes over a slow line, without a slow line."""

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Slot(NamedTuple):
    """When a message holds the link (`start` to `end`) and when it has arrived, in the link's clock."""

    start: float
    end: float
    arrival: float


class Link:
    """One direction of one device's line: a FIFO queue with a rate and a latency.

    A message of b bytes holds the link for b * 8 / rate seconds and arrives a latency later; the latency does
    not hold the link. The sender reserves a slot when it submits the message, which fixes the order, and then
    sleeps until the slot's arrival. Because slots follow each other without gaps while messages are queued,
    late wake-ups do not add up.

    Args:
        mbps: rate in Mbit/s (10^6 bit/s); None for no limit.
        latency_s: seconds from the end of a slot to the arrival.
        clock: current time in seconds; another one in tests.
        sleep: sleeps for seconds; another one in tests.
    """

    def __init__(
        self,
        mbps: float | None = None,
        latency_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bits_per_second = math.inf if mbps is None else mbps * 1e6
        self._latency_s = latency_s
        self._clock, self._sleep = clock, sleep
        self._free_at = -math.inf
        self._lock = threading.Lock()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all messages so far."""
        return self._num_bytes

    def seconds(self, num_bytes: int) -> float:
        """How long a message of `num_bytes` takes from start to arrival on an idle link."""
        return num_bytes * 8 / self._bits_per_second + self._latency_s

    def reserve(self, num_bytes: int) -> Slot:
        """Queues a message of `num_bytes` behind those already queued; returns at once."""
        with self._lock:
            start = max(self._clock(), self._free_at)
            end = start + num_bytes * 8 / self._bits_per_second
            self._free_at = end
            self._num_bytes += num_bytes
        return Slot(start, end, end + self._latency_s)

    def wait(self, slot: Slot) -> None:
        """Sleeps until the slot's message has arrived."""
        remaining = slot.arrival - self._clock()
        if remaining > 0:
            self._sleep(remaining)

    def transfer(self, num_bytes: int) -> None:
        """Reserves a slot and sleeps until the message has arrived."""
        self.wait(self.reserve(num_bytes))
