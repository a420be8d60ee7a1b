"""Calls that have their time, as the messages of emulated links: one thread of the process waits for all."""

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from pipar_rpc.base.threads import start_pool

Call = Callable[[], object]

LONGEST_WAIT_S = 3600.0

log = logging.getLogger(__name__)


class _Clock:
    """Makes calls at given times, on a thread of its own, in the order of these times."""

    def __init__(self) -> None:
        self._changed, self._ended = threading.Condition(), False
        self._due: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()
        self._pool = start_pool("clock")
        self._pool.submit(self._run)

    def set(self, when: float, ring: Call) -> None:
        """Has `ring` called at `when`."""
        with self._changed:
            entry = when, next(self._numbers), ring
            heapq.heappush(self._due, entry)
            if self._due[0] is entry:
                self._changed.notify()

    def end(self) -> None:
        """Makes no further calls, and releases the thread."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._pool.shutdown(wait=False)

    def _run(self) -> None:
        while (ring := self._next()) is not None:
            try:
                ring()
            except Exception:  # it is one owner's; the others' times come all the same
                log.exception("pipar_rpc: what was due could not be done")

    def _next(self) -> Call | None:
        """Waits for what is due next; None at the end."""
        with self._changed:
            while not self._ended:
                left = self._due[0][0] - time.monotonic() if self._due else LONGEST_WAIT_S
                if left <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(min(left, LONGEST_WAIT_S))
        return None


class _Process:
    """What all owners of this process share: a clock, for as long as anybody has alarms."""

    def __init__(self) -> None:
        self._clock: _Clock | None = None
        self._users = 0
        self._lock = threading.RLock()  # an owner that is collected as garbage may leave while another joins

    def join(self) -> _Clock:
        with self._lock:
            self._users += 1  # before all else: so it is not the end if another leaves meanwhile
            if self._clock is None:
                self._clock = _Clock()
            return self._clock

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._clock is not None:
                self._clock.end()
                self._clock = None


_process = _Process()


class Alarms:
    """Makes the calls of one owner at given times, one after the other; they must be short.

    They are made on a thread that all owners share, so that a thousand links take no thousand threads.
    """

    def __init__(self) -> None:
        self._lock, self._waiting = threading.RLock(), deque[Call]()
        self._last, self._closed = 0.0, False
        self._clock: _Clock | None = None

    def at(self, when: float, call: Call) -> None:
        """Has a call made at a time, and after the earlier ones: at once and here if both are the case.

        Args:
            when: time in seconds, by `time.monotonic`.
            call: what is to be done; nothing is done after `close`.
        """
        with self._lock:
            if self._closed:
                return
            self._last = max(self._last, when)
            if not self._waiting and self._last <= time.monotonic():
                call()
            else:
                self._clock = self._clock or _process.join()
                self._waiting.append(call)
                self._clock.set(self._last, self._ring)

    def _ring(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft()()

    def close(self) -> None:
        """Drops the calls that have not been made; waits for the one that is being made."""
        with self._lock:
            clock, self._clock, self._closed = self._clock, None, True
            self._waiting.clear()
        if clock is not None:
            _process.leave()
