"""The rate of a real line, from when the messages of the training left and when they arrived.

Both ends note the times of the micro-batches; nothing further is sent but a few pings, for the clocks. An
emulated link needs none of this: it knows its rate (`Link.recent_mbps`).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

RECENT = 512  # number of messages that are remembered
WINDOW_S = 1.0  # an estimate rests on the line's latest work, as long as this
ENOUGH_S = 0.05  # a shorter time does not tell a rate
# RPC adds about 1 KB to a message: with small ones, this is what would be measured.
MESSAGE_BYTES = 1 << 15
# So are the threads that wake up for it, 0.5 to 5 ms, if the line is busy for shorter times than this.
RUN_S = 0.02
PINGS = 7


class NotedMessage(NamedTuple):
    """A message at one end of a line.

    Attributes:
        number: number of the message, the same at both ends.
        num_bytes: bytes of its tensors.
        time_s: time at which it passed, by `time.monotonic()` of this process.
    """

    number: int
    num_bytes: int
    time_s: float


class TrafficLog:
    """The last messages that passed one end of one line; safe from any thread."""

    def __init__(self) -> None:
        self._recent: deque[NotedMessage] = deque(maxlen=RECENT)

    def note(self, number: int, num_bytes: int = 0) -> None:
        """Notes that message `number` passes now."""
        self._recent.append(NotedMessage(number, num_bytes, time.monotonic()))

    def add(self, message: NotedMessage) -> None:
        """Adds a message that was noted elsewhere."""
        self._recent.append(message)

    def drain(self) -> list[NotedMessage]:
        """Hands over the messages since the last call, the first one first, and starts empty."""
        recent, self._recent = self._recent, deque(maxlen=RECENT)
        return list(recent)


@dataclass(frozen=True)
class Traffic:
    """The messages that passed one end of a device's two lines, as they left or arrived there."""

    up: TrafficLog = field(default_factory=TrafficLog)
    down: TrafficLog = field(default_factory=TrafficLog)

    def drain_times(self) -> tuple[dict[int, float], dict[int, float]]:
        """Hands over when each message passed since the last call, by number: up, down."""
        return _times(self.up.drain()), _times(self.down.drain())


class Ping(NamedTuple):
    """The time that an empty message takes; the shortest is the most exact.

    Attributes:
        round_trip_s: seconds there and back.
        down_s: seconds from this process's clock to the device's, the clocks' difference included.
        up_s: seconds from the device's clock to this process's, the clocks' difference included.
    """

    round_trip_s: float
    down_s: float
    up_s: float

    @classmethod
    def of(cls, before: float, theirs: float, after: float) -> "Ping":
        """Makes a ping from when it was sent, the device's time, which is the answer, and when that came."""
        return cls(after - before, theirs - before, after - theirs)

    @property
    def clock_offset_s(self) -> float:
        """Seconds by which the device's clock is ahead, if both ways take the same time."""
        return (self.down_s - self.up_s) / 2


def ping(clock: Callable[[], float]) -> Ping:
    """Returns the fastest of a few pings.

    Args:
        clock: function that asks the device for its `time.monotonic()` and waits for the answer.
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
    """Returns the rates of a device's uplink and downlink since the last call; see `carried_mbps`.

    Args:
        here: messages that the server noted; they are handed over.
        there: result of `Traffic.drain_times` on the device.
        took: ping between the two.
        known_mbps: rates of both lines as they were known before.
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
    """Returns the Mbit/s (10^6 bit/s) at which a line carried its last messages.

    The result is None if there were too few messages, or if they are too small. A line that was never busy
    for `RUN_S` at a time cannot be measured; its rate is then a lower limit: the rate at which its messages
    would have taken `RUN_S`, or the known rate if that is higher.

    A message holds the line from when it has left and the one before has arrived, until it has arrived:

        seconds_i = arrived_i - max(left_i + delay, arrived_{i-1})
        rate = sum of bytes_i * 8 / sum of seconds_i

    over the last messages that took a second. Headers count as time: this is the rate at which the next
    message will be carried, not the line's nominal one.

    Args:
        messages: messages with their bytes, from either end.
        left: times at which messages left, by number, in the sender's clock.
        arrived: times at which they arrived, by number, in the receiver's clock.
        delay_s: seconds that an empty message takes from the one clock to the other.
        known_mbps: rate of the line as it was known before.
    """
    known = [message for message in messages if message.number in left and message.number in arrived]
    held, free_at = list[tuple[int, float, bool]](), float("-inf")
    for message in sorted(known, key=lambda message: arrived[message.number]):
        start, end = left[message.number] + delay_s, arrived[message.number]
        held.append((message.num_bytes, max(0.0, end - max(start, free_at)), start >= free_at))
        free_at = end
    num_bytes, seconds, count, runs = 0, 0.0, 0, 0
    while held and seconds < WINDOW_S:
        size, lasting, was_free = held.pop()
        num_bytes, seconds, count, runs = num_bytes + size, seconds + lasting, count + 1, runs + was_free
    runs = max(1, runs)
    if not count or num_bytes < count * MESSAGE_BYTES:
        return None
    if seconds < runs * RUN_S:
        return max(known_mbps, num_bytes / runs * 8e-6 / RUN_S)
    return num_bytes * 8e-6 / seconds if seconds >= ENOUGH_S else None
