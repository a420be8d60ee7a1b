"""Server halves that share the cores of a server process: an event queue, exact for any number of devices.

All micro-batches that are being computed go on equally fast, none faster than on one core, as threads do to
which an operating system gives equal shares: with c cores and k micro-batches each goes on at min(1, c / k).
So they end in the order of a virtual time that passes at this rate: what needs s seconds of a core and begins
at virtual time v ends at v + s (Parekh and Gallager, A generalized processor sharing approach to flow
control, IEEE/ACM Transactions on Networking, 1993). Each half computes its micro-batches one after the other,
and updates at the end of an iteration.
"""

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np

from pipar_rpc.simulation.halves import make_halves
from pipar_rpc.simulation.steps import Part
from pipar_rpc.timing.stage_recurrence import Array


class Trained(NamedTuple):
    """What some iterations of some classes of devices took.

    Attributes:
        middle: when half of them (rounded down) had ended, shape [C].
        ends: when the last of them had, shape [C].
        busy_s: seconds in which the server computed.
        work_s: seconds of one core that it needed.
        served_s: when the server had done everything, updates included.
    """

    middle: Array
    ends: Array
    busy_s: float
    work_s: float
    served_s: float


class Cores:
    """The cores of a server process; times must not fall from call to call.

    Args:
        cores: number of halves that are computed as fast as one alone.
        weights: number of devices that each class stands for.

    Attributes:
        now: time of the last call.
        busy_s: seconds in which anything was computed.
        work_s: seconds of one core that it needed.
    """

    def __init__(self, cores: float, weights: Sequence[float]) -> None:
        self._cores, self._weights = cores, weights
        self._ends: list[tuple[float, int]] = []  # virtual time, class
        self.now = self._virtual = self._load = 0.0
        self._stretch = 1.0
        self.busy_s = self.work_s = 0.0

    @property
    def next_end(self) -> float:
        """When the next micro-batch ends if none begins before; infinite if there is none."""
        if not self._ends:
            return math.inf
        return self.now + (self._ends[0][0] - self._virtual) * self._stretch

    def begin(self, time: float, index: int, seconds: float) -> None:
        """Begins a micro-batch of class `index` that takes so many seconds of a core."""
        if self._ends:
            self.busy_s += time - self.now
            self._virtual += (time - self.now) / self._stretch
        else:
            self._virtual = self._load = 0.0  # so that rounding does not add up
        self.now = time
        weight = self._weights[index]
        self.work_s += weight * seconds
        self._load += weight
        self._stretch = max(1.0, self._load / self._cores)
        heappush(self._ends, (self._virtual + seconds, index))

    def end(self, time: float) -> int:
        """Ends the next one, at `next_end`; returns its class."""
        self.busy_s += time - self.now
        self.now = time
        self._virtual, index = heappop(self._ends)
        self._load -= self._weights[index]
        self._stretch = max(1.0, self._load / self._cores)
        return index


def serve(part: Part, cores: float) -> Trained:
    """Trains classes of devices whose server halves share the cores of one process.

    Args:
        part: the classes and their iterations.
        cores: number of halves that are computed as fast as one alone.
    """
    halves = make_halves(part)
    server = Cores(cores, part.classes.fleet.weight.tolist())
    coming = [(half.begin(0.0), index) for index, half in enumerate(halves)]
    heapify(coming)
    while True:
        end = server.next_end
        if coming and coming[0][0] < end:
            time, index = heappop(coming)
            server.begin(time, index, halves[index].seconds())
            continue
        if end == math.inf:
            break
        index = server.end(end)
        ready = halves[index].answered(end)
        if ready is None:
            continue
        if ready <= end:
            server.begin(end, index, halves[index].seconds())
        else:
            heappush(coming, (ready, index))
    middle, ends = (np.array([getattr(half, name) for half in halves]) for name in ("middle", "ends"))
    return Trained(middle, ends, server.busy_s, server.work_s, server.now)
