"""When a GPU got to a point of its work, by the clock of this process, without having to wait for it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

MOST_UNREAD = 256  # moments that are kept before those that have passed are read


class Event(Protocol):
    """An event that was recorded in a stream; see `torch.cuda.Event`."""

    def query(self) -> bool:
        """Whether the stream has got to it."""

    def synchronize(self) -> None:
        """Waits until the stream has got to it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to another one; both have happened."""


class Moment:
    """A point in the work of a stream.

    Args:
        clock: clock of the stream.
        event: event that was recorded there, with its time.

    Attributes:
        event: the event; None once it is known when it was.
    """

    __slots__ = ("_at", "_clock", "event")

    def __init__(self, clock: "StreamClock", event: Event) -> None:
        self._clock = clock
        self.event: Event | None = event
        self._at = 0.0

    def note(self, at: float) -> None:
        """Notes when it was, and lets go of the event."""
        self._at, self.event = at, None

    def seconds(self) -> float:
        """When it was, by this process's clock; waits for it if the stream has not got there yet."""
        if self.event is not None:
            self._clock.read(self)
        return self._at


class StreamClock:
    """Notes moments of one stream, and tells later when they were.

    A GPU tells how long it took from one event to another. So one event is set beside this process's clock at
    the beginning, and each moment is counted from the one before it. Whenever all moments have been read, the
    clocks are set anew, for they drift apart.

    Args:
        record: function that records an event with its time in the stream.
        host: this process's clock, in seconds.
    """

    def __init__(self, record: Callable[[], Event], host: Callable[[], float] = time.monotonic) -> None:
        self._record, self._host = record, host
        self._lock = threading.Lock()  # work of a stream is given by one thread, its times read by another
        self._unread: deque[Moment] = deque()
        self._last, self._last_s = self._set()

    def now(self) -> Moment:
        """The moment at which the stream has done what it was given so far; does not wait."""
        moment = Moment(self, self._record())
        self._unread.append(moment)
        if len(self._unread) > MOST_UNREAD:
            self._read_passed()
        return moment

    def read(self, moment: Moment) -> None:
        """Waits for a moment, and notes when it and all before it were."""
        with self._lock:
            while moment.event is not None:
                self._read_first()
            if not self._unread:
                self._last, self._last_s = self._set()

    def _read_passed(self) -> None:
        with self._lock:
            while self._unread and (event := self._unread[0].event) and event.query():
                self._read_first()

    def _read_first(self) -> None:
        moment = self._unread.popleft()
        event = moment.event
        assert event is not None
        event.synchronize()
        self._last_s += self._last.elapsed_time(event) / 1000
        self._last = event
        moment.note(self._last_s)

    def _set(self) -> tuple[Event, float]:
        """An event, and when it was: it happens between the two looks at this process's clock."""
        before = self._host()
        event = self._record()
        event.synchronize()
        return event, (before + self._host()) / 2
