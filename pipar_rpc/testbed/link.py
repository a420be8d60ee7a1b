"""Emulated links: how long a message takes over a slow line, without a slow line."""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

MIN_MBPS = 1e-6  # slower than this, a link is down


@dataclass(frozen=True)
class RateTrace:
    """A rate that is constant between given times.

    Attributes:
        times: seconds, increasing from 0; each rate holds from its time to the next one.
        mbps: Mbit/s (10^6 bit/s) from each time on; 0 while the link is down, infinite for no limit.
        period: seconds after which the trace begins again; None if the last rate holds for ever.
    """

    times: tuple[float, ...]
    mbps: tuple[float, ...]
    period: float | None = None

    @classmethod
    def constant(cls, mbps: float | None) -> "RateTrace":
        """The same rate for ever; None for no limit."""
        return cls((0.0,), (math.inf if mbps is None else mbps,))

    @property
    def limited(self) -> bool:
        """Whether a message takes any time."""
        return any(math.isfinite(rate) for rate in self.mbps)

    def after(self, time_s: float) -> float:
        """Mbit/s at a time, or when the link is up again; infinite for no limit."""
        return next(rate for _, _, rate in self._from(time_s) if rate)

    def scaled(self, factor: float) -> "RateTrace":
        """The same trace `factor` times as fast: rates and the passing of time."""
        times = tuple(time / factor for time in self.times)
        period = None if self.period is None else self.period / factor
        return RateTrace(times, tuple(rate * factor for rate in self.mbps), period)

    def carry(self, num_bytes: float, start: float) -> Iterator[tuple[float, float, float]]:
        """How a message of `num_bytes` passes that starts at time `start`: pieces (begin, end, bytes).

        The end of the last piece is the message's. Without bytes, or without a limit, one piece of no length.
        """
        for begin, end, mbps in self._from(start):
            possible = (end - begin) * mbps * 1e6 / 8 if mbps and num_bytes else 0.0
            if num_bytes <= possible or not num_bytes or math.isinf(mbps):
                yield begin, begin + num_bytes * 8e-6 / mbps if num_bytes else begin, num_bytes
                return
            num_bytes -= possible
            yield begin, end, possible

    def worst_seconds(self, num_bytes: float) -> float:
        """An upper limit of the time that `num_bytes` take, whenever they start."""
        pieces = zip(self.times, self._ends(), self.mbps, strict=True)
        down = sum(end - begin for begin, end, rate in pieces if not rate)
        seconds = num_bytes * 8e-6 / min(rate for rate in self.mbps if rate)
        rounds = 1 if self.period is None else 1 + seconds / (self.period - down)
        return seconds + down * rounds

    def _ends(self) -> tuple[float, ...]:
        return (*self.times[1:], math.inf if self.period is None else self.period)

    def _from(self, start: float) -> Iterator[tuple[float, float, float]]:
        """The trace from a time on: (begin, end, rate)."""
        offset = 0.0 if self.period is None else start // self.period * self.period
        while True:
            for begin, end, mbps in zip(self.times, self._ends(), self.mbps, strict=True):
                if offset + end > start:
                    yield max(start, offset + begin), offset + end, mbps
            assert self.period is not None
            offset += self.period


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
        rate: Mbit/s (10^6 bit/s), None for no limit; or a trace, whose time 0 is when `start` is called.
        latency_s: seconds from the end of a slot to the arrival.
        jitter_s: further latency, drawn for each message between 0 and this; messages do not overtake.
        rng: generator of the jitter.
        bin_s: length in seconds of the intervals of `drain_traffic`.
        clock: current time in seconds; another one in tests.
        sleep: sleeps for seconds; one that can be interrupted where the sender may be stopped.
    """

    def __init__(
        self,
        rate: RateTrace | float | None = None,
        latency_s: float = 0.0,
        jitter_s: float = 0.0,
        rng: torch.Generator | None = None,
        bin_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate if isinstance(rate, RateTrace) else RateTrace.constant(rate)
        self._latency_s, self._jitter_s, self._rng = latency_s, jitter_s, rng
        self._bin_s, self._clock, self._sleep = bin_s, clock, sleep
        self._started = clock()
        self._free_at = self._last_arrival = -math.inf
        self._lock = threading.Lock()
        self._num_bytes = 0
        self._traffic: dict[int, float] = defaultdict(float)
        self._drained = 0  # intervals that drain_traffic has handed over
        self._last_message = (0, 0.0)  # bytes, seconds

    @property
    def num_bytes(self) -> int:
        """Bytes of all messages so far."""
        return self._num_bytes

    def start(self, elapsed_s: float = 0.0) -> None:
        """Makes now the time `elapsed_s` of the trace and of the traffic."""
        with self._lock:
            self._started = self._clock() - elapsed_s
            self._traffic.clear()
            self._drained = int(elapsed_s // self._bin_s)

    def reserve(self, num_bytes: int) -> Slot:
        """Queues a message of `num_bytes` behind those already queued; returns at once."""
        with self._lock:
            start = end = max(self._clock(), self._free_at)
            for piece in self._rate.carry(num_bytes, start - self._started):
                end = self._started + piece[1]
                if self._rate.limited:
                    self._note(*piece)
            self._free_at = end
            self._num_bytes += num_bytes
            if num_bytes:
                self._last_message = num_bytes, end - start
            self._last_arrival = max(self._last_arrival, end + self._latency_s + self._jitter())
            return Slot(start, end, self._last_arrival)

    def carried(self, slot: Slot) -> bool:
        """Whether the slot's message has arrived."""
        return slot.arrival <= self._clock()

    def wait(self, slot: Slot) -> None:
        """Sleeps until the slot's message has arrived."""
        remaining = slot.arrival - self._clock()
        if remaining > 0:
            self._sleep(remaining)

    def transfer(self, num_bytes: int) -> None:
        """Reserves a slot and sleeps until the message has arrived."""
        self.wait(self.reserve(num_bytes))

    def recent_mbps(self) -> float | None:
        """Mbit/s at which the last message was carried; None if there was none, or without a limit."""
        num_bytes, seconds = self._last_message
        return num_bytes * 8e-6 / seconds if seconds else None

    def drain_traffic(self) -> list[float]:
        """Bytes carried in each interval of `bin_s` that has ended since `start` and was not yet handed over.

        Without a limit there is no record, for messages take no time.
        """
        if not self._rate.limited:
            return []
        with self._lock:
            ended = int((self._clock() - self._started) // self._bin_s)
            traffic = [self._traffic.pop(number, 0.0) for number in range(self._drained, ended)]
            self._drained = max(ended, self._drained)
        return traffic

    def _jitter(self) -> float:
        return self._jitter_s * float(torch.rand((), generator=self._rng)) if self._jitter_s else 0.0

    def _note(self, begin: float, end: float, num_bytes: float) -> None:
        first, last = int(begin // self._bin_s), int(end // self._bin_s)
        for number in range(first, last + 1):
            inside = min(end, (number + 1) * self._bin_s) - max(begin, number * self._bin_s)
            if inside > 0:
                self._traffic[number] += num_bytes * inside / (end - begin)


@dataclass(frozen=True)
class LinkSpec:
    """What a `Link` is made from, as plain data.

    Attributes:
        rate: rate at each time.
        latency_s: see `Link`.
        jitter_s: see `Link`.
        bin_s: see `Link`.
    """

    rate: RateTrace
    latency_s: float = 0.0
    jitter_s: float = 0.0
    bin_s: float = 1.0

    def open(self, rng: torch.Generator, sleep: Callable[[float], None] = time.sleep) -> Link:
        """The link; `rng` draws its jitter."""
        return Link(self.rate, self.latency_s, self.jitter_s, rng, self.bin_s, sleep=sleep)

    def worst_seconds(self, num_bytes: float) -> float:
        """An upper limit of the time from the start of a message on an idle link to its arrival."""
        return self.rate.worst_seconds(num_bytes) + self.latency_s + self.jitter_s
