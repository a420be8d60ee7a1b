"""How fast a real line carries what crosses it anyway, from when messages left and when they arrived.

Both ends note the times of the micro-batches; nothing further is sent but a few pings, for the clocks. An
emulated link needs none of this: it knows its rate (`Link.recent_mbps`).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

RECENT = 512  # messages that are remembered
WINDOW_S = 1.0  # of the line's work that an estimate rests on, the latest
ENOUGH_S = 0.05  # less does not tell a rate
# RPC adds about 1 KB to a message: with small ones, this is what would be measured.
MESSAGE_BYTES = 1 << 15
# So are the threads that wake up for it, 0.5 to 5 ms, if the line is busy for shorter times than this.
RUN_S = 0.02
PINGS = 7


class NotedMessage(NamedTuple):
    """A message at one end of a line.

    Attributes:
        number: the same at both ends.
        num_bytes: of its tensors.
        time_s: of this process's `time.monotonic()`.
    """

    number: int
    num_bytes: int
    time_s: float


class TrafficLog:
    """The last messages that passed one end of one line; safe from any thread."""

    def __init__(self) -> None:
        self._recent: deque[NotedMessage] = deque(maxlen=RECENT)

    def note(self, number: int, num_bytes: int = 0) -> None:
        """Message `number` passes now."""
        self._recent.append(NotedMessage(number, num_bytes, time.monotonic()))

    def drain(self) -> list[NotedMessage]:
        """Hands over what has passed since the last call, the first one first, and starts empty."""
        recent, self._recent = self._recent, deque(maxlen=RECENT)
        return list(recent)


@dataclass(frozen=True)
class Traffic:
    """What passed one end of a device's two lines: leaves here, or arrives."""

    up: TrafficLog = field(default_factory=TrafficLog)
    down: TrafficLog = field(default_factory=TrafficLog)

    def drain_times(self) -> tuple[dict[int, float], dict[int, float]]:
        """Up and down: number -> when it passed, since the last call."""
        return _times(self.up.drain()), _times(self.down.drain())


class Ping(NamedTuple):
    """What an empty message takes; the smallest is the best.

    Attributes:
        round_trip_s: there and back.
        down_s: from this process's clock to the device's; their difference is part of it.
        up_s: from the device's clock to this process's.
    """

    round_trip_s: float
    down_s: float
    up_s: float

    @classmethod
    def of(cls, before: float, theirs: float, after: float) -> "Ping":
        """From when it was sent and when the answer came, and the device's time, which is the answer."""
        return cls(after - before, theirs - before, after - theirs)

    @property
    def clock_offset_s(self) -> float:
        """How much the device's clock is ahead, if both ways take the same time."""
        return (self.down_s - self.up_s) / 2


def ping(clock: Callable[[], float]) -> Ping:
    """The fastest of a few pings.

    Args:
        clock: asks the device for its `time.monotonic()` and waits for the answer.
    """

    def once() -> Ping:
        return Ping.of(time.monotonic(), clock(), time.monotonic())

    return min(once() for _ in range(PINGS))


def carried(
    here: Traffic,
    there: tuple[Mapping[int, float], Mapping[int, float]],
    took: Ping,
    known_mbps: tuple[float, float],
) -> tuple[float | None, float | None]:
    """What a device's uplink and downlink carried since the last call; see `carried_mbps`.

    Args:
        here: what the server noted; starts empty then.
        there: `Traffic.drain_times` of the device.
        took: between the two.
        known_mbps: their rates as they were known before.
    """
    up, down = here.up.drain(), here.down.drain()
    return (
        carried_mbps(up, there[0], _times(up), took.up_s, known_mbps[0]),
        carried_mbps(down, _times(down), there[1], took.down_s, known_mbps[1]),
    )


def _times(messages: Iterable[NotedMessage]) -> dict[int, float]:
    return {message.number: message.time_s for message in messages}


def carried_mbps(
    messages: Iterable[NotedMessage],
    left: Mapping[int, float],
    arrived: Mapping[int, float],
    delay_s: float,
    known_mbps: float,
) -> float | None:
    """Mbit/s (10^6 bit/s) at which a line carried its last messages.

    The result is None if there were too few messages, or if they are too small. A line that was never busy
    for `RUN_S` at a time cannot be measured; its rate is then a lower limit: the rate at which its messages
    would have taken `RUN_S`, or the known rate if that is higher.

    A message holds the line from when it has left and the one before has arrived, until it has arrived:

        seconds_i = arrived_i - max(left_i + delay, arrived_{i-1})
        rate = sum of bytes_i * 8 / sum of seconds_i

    over the last messages that took a second. Headers count as time: this is the rate at which the next
    message will be carried, not the line's nominal one.

    Args:
        messages: with their bytes, from either end.
        left: number -> when it left, in the sender's clock.
        arrived: number -> when it arrived, in the receiver's clock.
        delay_s: what an empty message takes from the one clock to the other.
        known_mbps: the line's rate as it was known before.
    """
    known = [own for own in messages if own.number in left and own.number in arrived]
    held, free_at = list[tuple[int, float, bool]](), float("-inf")
    for own in sorted(known, key=lambda own: arrived[own.number]):
        start, end = left[own.number] + delay_s, arrived[own.number]
        held.append((own.num_bytes, max(0.0, end - max(start, free_at)), start >= free_at))
        free_at = end
    num_bytes, seconds, count, runs = 0, 0.0, 0, 0
    while held and seconds < WINDOW_S:
        size, lasting, found_free = held.pop()
        num_bytes, seconds, count, runs = num_bytes + size, seconds + lasting, count + 1, runs + found_free
    runs = max(1, runs)
    if not count or num_bytes < count * MESSAGE_BYTES:
        return None
    if seconds < runs * RUN_S:
        return max(known_mbps, num_bytes / runs * 8e-6 / RUN_S)
    return num_bytes * 8e-6 / seconds if seconds >= ENOUGH_S else None
