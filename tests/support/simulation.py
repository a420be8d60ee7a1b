"""The stage recurrence by brute force."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np

from pipar_rpc.timing.stage_recurrence import StageTimes, UShapeTimes

Job = tuple[float, Callable[[], None]]


def simulate(t: StageTimes, n: int) -> float:
    """Brute force: every task waits for its predecessors, looked up by name."""
    done: dict[tuple[str, int], float] = {}
    latency = {"u": t.uplink_latency, "d": t.downlink_latency}

    def seconds(times: Any, i: int) -> float:
        return float(np.broadcast_to(times, n)[i - 1])

    def run(name: str, i: int, times: Any, *previous: tuple[str, int]) -> None:
        ready = [done[p] + latency.get(p[0], 0) * (p[0] != name) for p in previous if p[1] > 0]
        done[name, i] = seconds(times, i) + max(ready, default=0)

    for i in range(1, n + 1):
        run("fc", i, t.device_forward, ("fc", i - 1))
    for i in range(1, n + 1):
        run("u", i, t.uplink, ("u", i - 1), ("fc", i))
        run("fs", i, t.server_forward, ("u", i), ("bs", i - 1))
        run("bs", i, t.server_backward, ("fs", i))
        run("d", i, t.downlink, ("d", i - 1), ("bs", i))
    for i in range(1, n + 1):
        run("bc", i, t.device_backward, ("bc", i - 1) if i > 1 else ("fc", n), ("d", i))
    return done["bc", n] + float(t.update)


class _Resource:
    """Serves one job at a time; which one, its `take` says."""

    def __init__(self, agenda: "_Agenda") -> None:
        self._agenda, self._busy, self._jobs = agenda, False, [deque[Job]() for _ in range(3)]

    def add(self, rank: int, seconds: float, done: Callable[[], None]) -> None:
        """A job; of those that wait, one with the smallest rank is next."""
        self._jobs[rank].append((seconds, done))
        self._agenda.at(0.0, self._next)

    def _next(self) -> None:
        if self._busy or not any(self._jobs):
            return
        seconds, done = next(jobs for jobs in self._jobs if jobs).popleft()
        self._busy = True

        def end() -> None:
            self._busy = False
            done()
            self._agenda.at(0.0, self._next)

        self._agenda.at(seconds, end)


class _Agenda:
    """What happens when."""

    def __init__(self) -> None:
        self.now, self._events, self._count = 0.0, list[tuple[float, int, Callable[[], None]]](), count()

    def at(self, delay: float, call: Callable[[], None]) -> None:
        heappush(self._events, (self.now + delay, next(self._count), call))

    def run(self) -> float:
        while self._events:
            self.now, _, call = heappop(self._events)
            call()
        return self.now


def simulate_u_shape(t: UShapeTimes, n: int) -> float:
    """Event by event: device, server and both lines take whatever has come, in the order of arrival.

    The device prefers forward passes to its last units, and these to backward passes.
    """
    agenda = _Agenda()
    device, server, up, down = (_Resource(agenda) for _ in range(4))

    route = (  # resource, rank among what waits for it, seconds, latency afterwards
        (device, 0, t.device_forward, 0.0),
        (up, 0, t.uplink, t.uplink_latency),
        (server, 0, t.server_forward, 0.0),
        (down, 0, t.output_downlink, t.downlink_latency),
        (device, 1, t.device_tail, 0.0),
        (up, 0, t.return_uplink, t.uplink_latency),
        (server, 0, t.server_backward, 0.0),
        (down, 0, t.downlink, t.downlink_latency),
        (device, 2, t.device_backward, 0.0),
    )

    def travel(i: int, step: int = 0) -> None:
        if step < len(route):
            resource, rank, times, latency = route[step]
            seconds = float(np.broadcast_to(times, n)[i - 1])
            resource.add(rank, seconds, lambda: agenda.at(latency, lambda: travel(i, step + 1)))

    for i in range(1, n + 1):
        travel(i)
    return agenda.run() + float(t.update)
