"""The devices' part of an iteration, for many classes of devices at once: before the server and after it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipar_rpc.simulation.fleet import Classes, Fleet
from pipar_rpc.simulation.kinds import Kind, Shape
from pipar_rpc.simulation.lines import Line, transfer
from pipar_rpc.timing.stage_recurrence import Array, ends_in_order

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Lines:
    """The lines of all devices, by number, one list for each direction."""

    up: list[Line]
    down: list[Line]

    @property
    def constant(self) -> bool:
        """Whether no rate changes, so that it does not matter when anything happens."""
        return all(line.constant for line in (*self.up, *self.down))


class Iteration:
    """One iteration of each class of devices. Micro-batches that a class does not have take no time.

    Args:
        classes: the classes.
        shapes: shape of each class's iteration.
        lines: lines of the devices.
        latency_s: seconds of both directions' latency for each class, shape [2, C].
        began_s: seconds by which traces are ahead at time 0.
    """

    def __init__(
        self, classes: Classes, shapes: Sequence[Shape], lines: Lines, latency_s: Array, began_s: float
    ) -> None:
        self._classes, self._fleet, self.shapes = classes, classes.fleet, shapes
        self._lines, self._latency_s, self._began_s = lines, latency_s, began_s
        self._shift_s = classes.fleet.shift_s + began_s

    def like(self, shapes: Sequence[Shape]) -> "Iteration":
        """The same with other shapes."""
        return Iteration(self._classes, shapes, self._lines, self._latency_s, self._began_s)

    @property
    def zeros(self) -> Array:
        """A start at 0 for each class: shape [C]."""
        return np.zeros(len(self.shapes))

    @cached_property
    def counts(self) -> NDArray[np.int_]:
        """N of each class, shape [C]."""
        return np.array([len(shape.samples) for shape in self.shapes])

    @cached_property
    def present(self) -> Mask:
        """Which micro-batches each class has, shape [C, N]."""
        return np.asarray(np.arange(self.counts.max()) < self.counts[:, None])

    def each(self, of: Callable[[Shape], Array]) -> Array:
        """An array of the shapes, with zeros for micro-batches that a class does not have: shape [C, N]."""
        known: dict[int, Array] = {}
        found = np.zeros(self.present.shape)
        for row, shape in enumerate(self.shapes):
            if id(shape) not in known:
                known[id(shape)] = of(shape)
            own = known[id(shape)]
            found[row, : len(own)] = own
        return found

    def one(self, of: Callable[[Shape], float]) -> Array:
        """A number of each shape: shape [C]."""
        return np.array([of(shape) for shape in self.shapes])

    @cached_property
    def server(self) -> Array:
        """Seconds of one of the server's cores: shape [C, N]."""
        return self.each(lambda shape: shape.server)

    @cached_property
    def _forward(self) -> Array:
        """Seconds from the start until each forward pass has ended."""
        slow = self._fleet.slowdown[:, None]
        submit = self.present * self.one(lambda shape: shape.submit_s)[:, None]
        return np.cumsum(self.each(lambda shape: shape.forward) * slow + submit, axis=1)

    @cached_property
    def _backward(self) -> Array:
        return self.each(lambda shape: shape.backward) * self._fleet.slowdown[:, None]

    @property
    def forward_s(self) -> Array:
        """Seconds from the start until the last forward pass has ended: shape [C]."""
        return np.asarray(self._forward[:, -1])

    @cached_property
    def update_s(self) -> Array:
        """Seconds of the device's update: shape [C]."""
        return self.one(lambda shape: shape.update_s) * self._fleet.slowdown

    @cached_property
    def _up(self) -> Array:
        return self.each(lambda shape: shape.uplink)

    @cached_property
    def _down(self) -> Array:
        return self.each(lambda shape: shape.downlink)

    def device_s(self) -> Array:
        """Seconds that each computes: shape [C]."""
        return self.one(lambda shape: shape.device_s) * self._fleet.slowdown

    def link_s(self) -> tuple[Array, Array]:
        """Seconds that micro-batches hold the uplink and the downlink, at the mean rate: shape [C]."""
        fleet, lines = self._fleet, self._lines
        rates = (
            np.array([line.mean_mbps for line in way])[fleet.line] * factor
            for way, factor in ((lines.up, fleet.uplink), (lines.down, fleet.downlink))
        )
        up, down = (own.sum(axis=1) for own in (self._up, self._down))
        up_rate, down_rate = rates
        return up / up_rate, down / down_rate

    def arrivals(self, start: Array) -> Array:
        """When micro-batches are at the server, shape [C, N], if the iteration starts at `start`, [C]."""
        fleet = self._fleet
        ready = start[:, None] + self._forward
        sent = transfer(self._lines.up, fleet.line, ready, self._up, fleet.uplink, self._shift_s)
        return np.asarray(sent + self._latency_s[0][:, None])

    def ends(self, start: Array, answered: Array) -> Array:
        """When the iteration ends, update included, shape [C].

        Args:
            start: when it started, shape [C].
            answered: when the server had the gradient of each micro-batch, shape [C, N].
        """
        fleet = self._fleet
        known = np.where(self.present, answered, start[:, None])
        known = np.maximum.accumulate(known, axis=1)  # what is not there is answered with the one before
        sent = transfer(self._lines.down, fleet.line, known, self._down, fleet.downlink, self._shift_s)
        returned = sent + self._latency_s[1][:, None]
        passed = (start + self.forward_s)[:, None]
        ends = ends_in_order(np.maximum(returned, passed), self._backward)
        return np.asarray(ends[:, -1] + self.update_s)

    def alone_ends(self, start: Array) -> Array:
        """When it ends if each class has the server to itself, shape [C]."""
        return self.ends(start, ends_in_order(self.arrivals(start), self.server))


@dataclass(frozen=True)
class Part:
    """Some iterations of some classes of devices, which begin together at time 0.

    Attributes:
        classes: the classes.
        whole: an iteration of each with a whole mini-batch.
        last: the last iteration of each, whose mini-batch may be smaller.
        limits: number of iterations that are simulated of each, shape [C].
        lines: lines of all devices, by number.
        latency_s: see `latencies`.
        began_s: seconds since the training began, for traces.
    """

    classes: Classes
    whole: Iteration
    last: Iteration
    limits: NDArray[np.int_]
    lines: Lines
    latency_s: Array
    began_s: float

    def iteration(self, number: int) -> tuple[Iteration, Mask]:
        """Iteration `number`, from 0, and which classes take part in it.

        Classes for which it is the last one have that one's shape.
        """
        last = self.limits - 1 == number
        if self.last is self.whole or not last.any():
            chosen = self.whole
        elif last.all():
            chosen = self.last
        else:
            pairs = zip(self.whole.shapes, self.last.shapes, last.tolist(), strict=True)
            chosen = self.whole.like([b if is_last else a for a, b, is_last in pairs])
        return chosen, self.limits > number


def make_part(classes: Classes, kinds: Sequence[Kind], lines: Lines, began_s: float, most: int) -> Part:
    """Makes the part of the classes' iterations that is simulated: at most `most` of each.

    A class that has more does not come to its last, smaller mini-batch.
    """
    limits = np.minimum(classes.iterations, most)
    of = classes.fleet.kind.tolist()
    whole = [kinds[kind].shape(kinds[kind].batch_size) for kind in of]
    ended = np.where(limits < classes.iterations, 0, classes.last)
    latency_s = latencies(classes, kinds)
    if lines.constant:
        began_s = 0.0
    every = Iteration(classes, whole, lines, latency_s, began_s)
    last = every
    if ended.any():
        rows = zip(of, ended.tolist(), whole, strict=True)
        last = every.like([kinds[kind].shape(size) if size else shape for kind, size, shape in rows])
    return Part(classes, every, last, limits, lines, latency_s, began_s)


def latency_of(fleet: Fleet, kinds: Sequence[Kind]) -> Array:
    """Seconds of latency of each device's uplink and downlink, the mean of jitter included: shape [2, K]."""
    ways = np.array(
        [
            [link.latency_s + link.jitter_s / 2 for link in (kind.job.uplink, kind.job.downlink)]
            for kind in kinds
        ]
    )
    return np.asarray(ways[fleet.kind].T * fleet.latency)


def latencies(classes: Classes, kinds: Sequence[Kind]) -> Array:
    """The same for classes; the rest of an answer's way to the device counts as the downlink's: [2, C]."""
    answer = np.array([kind.known.message.answer_s for kind in kinds])[classes.fleet.kind]
    return np.asarray(latency_of(classes.fleet, kinds) + np.stack([np.zeros_like(answer), answer]))
