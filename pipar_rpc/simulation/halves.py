"""A server half and its device, micro-batch by micro-batch, for the event queue of a server process."""

from collections.abc import Sequence
from typing import NamedTuple

from pipar_rpc.simulation.kinds import Shape
from pipar_rpc.simulation.lines import Line
from pipar_rpc.simulation.steps import Iteration, Part


class _Link(NamedTuple):
    """The lines of a device whose rates change.

    Attributes:
        up, down: the lines.
        uplink, downlink: factors of their rates.
        shift_s: seconds by which the traces are ahead, at the start of the part.
    """

    up: Line
    down: Line
    uplink: float
    downlink: float
    shift_s: float


class _Stages:
    """The lists of a shape: they are the same for all devices with it."""

    __slots__ = ("backward", "downlink", "forward", "server", "submit_s", "update_s", "uplink")

    def __init__(self, shape: Shape) -> None:
        self.forward, self.uplink = shape.forward.tolist(), shape.uplink.tolist()
        self.downlink, self.backward = shape.downlink.tolist(), shape.backward.tolist()
        self.server: list[float] = shape.server.tolist()
        self.submit_s, self.update_s = shape.submit_s, shape.server_update_s


class _Times(NamedTuple):
    """One iteration of a class of devices, in seconds from its start.

    Attributes:
        stages: what it has in common with others.
        arrivals: when each micro-batch is at the server, unless rates change.
        forward_s: when the last forward pass ends.
        update_s: seconds of the device's update.
    """

    stages: _Stages
    arrivals: list[float]
    forward_s: float
    update_s: float


class Half:
    """The server half of a class of devices, and what its answers mean on the device.

    Args:
        whole: an iteration with a whole mini-batch.
        last: the last iteration.
        limit: number of iterations.
        slowdown: factor of the device's computing time.
        per_mbit: seconds of a Mbit on the downlink, unless rates change.
        latency_s: latency of uplink and downlink.
        link: lines whose rates change; None if they do not.

    Attributes:
        middle: when half of the iterations (rounded down) had ended.
        ends: when the last one had.
    """

    __slots__ = (
        *("_arrivals", "_back", "_down", "_iteration", "_last", "_latency_s", "_limit", "_link", "_n"),
        *("_per_mbit", "_slowdown", "_start", "_times", "ends", "middle"),
    )

    def __init__(
        self,
        whole: _Times,
        last: _Times,
        limit: int,
        slowdown: float,
        per_mbit: float,
        latency_s: tuple[float, float],
        link: _Link | None,
    ) -> None:
        self._times, self._last, self._limit = whole, last, limit
        self._slowdown, self._per_mbit = slowdown, per_mbit
        self._latency_s, self._link = latency_s, link
        self._iteration, self.ends, self.middle = -1, 0.0, 0.0

    def begin(self, start: float) -> float:
        """Begins the next iteration; returns when its first micro-batch is at the server."""
        self._iteration += 1
        if self._iteration == self._limit - 1:
            self._times = self._last
        times = self._times
        self._start, self._n, self._down = start, 0, start
        self._back = start + times.forward_s
        self._arrivals = times.arrivals if self._link is None else self._over(self._link, start)
        return start + self._arrivals[0]

    def _over(self, link: _Link, start: float) -> list[float]:
        """Arrivals over a line whose rate changes, in seconds from the start."""
        stages, found, computed, sent = self._times.stages, list[float](), start, start
        for forward, mbit in zip(stages.forward, stages.uplink, strict=True):
            computed += forward * self._slowdown + stages.submit_s
            sent = link.up.end(max(computed, sent), mbit, link.uplink, link.shift_s)
            found.append(sent + self._latency_s[0] - start)
        return found

    def seconds(self) -> float:
        """Core seconds of the next job: a micro-batch, or the update behind the last one."""
        stages = self._times.stages
        return stages.server[self._n] if self._n < len(stages.server) else stages.update_s

    def answered(self, time: float) -> float | None:
        """Ends a job at `time`; returns when the next one is there, None after the last iteration."""
        n, stages = self._n, self._times.stages
        if n == len(stages.server):
            return self._next()
        ready = max(time, self._down)
        if self._link is None:
            self._down = ready + stages.downlink[n] * self._per_mbit
        else:
            link = self._link
            self._down = link.down.end(ready, stages.downlink[n], link.downlink, link.shift_s)
        back = stages.backward[n] * self._slowdown
        self._back = max(self._down + self._latency_s[1], self._back) + back
        self._n = n + 1
        if self._n < len(stages.server):
            return self._start + self._arrivals[self._n]
        self.ends = self._back + self._times.update_s
        if self._iteration + 1 == self._limit // 2:
            self.middle = self.ends
        return time if stages.update_s else self._next()

    def _next(self) -> float | None:
        return self.begin(self.ends) if self._iteration + 1 < self._limit else None


def make_halves(part: Part) -> list[Half]:
    """The halves of all classes of a part."""
    fleet, known = part.classes.fleet, dict[int, _Stages]()
    whole = _times(part.whole, known)
    last = whole if part.last is part.whole else _times(part.last, known)
    rates = [line.mean_mbps for line in part.lines.down]
    columns = zip(
        *(fleet.line.tolist(), fleet.uplink.tolist(), fleet.downlink.tolist(), fleet.shift_s.tolist()),
        strict=True,
    )
    links = [
        None
        if part.lines.up[line].constant and part.lines.down[line].constant
        else _Link(part.lines.up[line], part.lines.down[line], up, down, shift + part.began_s)
        for line, up, down, shift in columns
    ]
    per_mbit = [
        1 / (factor * rates[line])
        for factor, line in zip(fleet.downlink.tolist(), fleet.line.tolist(), strict=True)
    ]
    latency = zip(*part.latency_s.tolist(), strict=True)
    own = zip(
        whole, last, part.limits.tolist(), fleet.slowdown.tolist(), per_mbit, latency, links, strict=True
    )
    return [Half(*arguments) for arguments in own]


def _times(iteration: Iteration, known: dict[int, _Stages]) -> list[_Times]:
    """The times of each class; shapes that are known are not listed again."""
    arrivals = iteration.arrivals(iteration.zeros).tolist()
    forward = iteration.forward_s.tolist()
    update = iteration.update_s.tolist()
    stages: Sequence[_Stages] = [
        known[id(shape)] if id(shape) in known else known.setdefault(id(shape), _Stages(shape))
        for shape in iteration.shapes
    ]
    return [_Times(*own) for own in zip(stages, arrivals, forward, update, strict=True)]
