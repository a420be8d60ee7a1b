"""The training of a round: what all devices' iterations take, with the server that they share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipar_rpc.plan.strategies import Strategy
from pipar_rpc.simulation.fleet import Classes, Fleet, classes_of
from pipar_rpc.simulation.kinds import Kind
from pipar_rpc.simulation.lines import IntArray
from pipar_rpc.simulation.one_half import merge, one_by_one, rotate
from pipar_rpc.simulation.shared_cores import Trained, serve
from pipar_rpc.simulation.steps import Lines, Part, make_part
from pipar_rpc.timing.stage_recurrence import Array


@dataclass(frozen=True)
class World:
    """What stays the same through a simulation; times are real seconds.

    Attributes:
        kinds: kinds of devices, with their P and N.
        lines: lines of all devices, by number.
        strategy: way in which they train together.
        num_servers: number of server processes.
        cores: number of server halves that each of them computes at a time as fast as one alone.
        average_s: seconds in which a byte of a network is added to the average.
        aggregates: whether networks are averaged, or handed on.
        max_micro_batches: largest number of micro-batches that are simulated one by one in a round.
    """

    kinds: Sequence[Kind]
    lines: Lines
    strategy: Strategy
    num_servers: int
    cores: float
    average_s: float
    aggregates: bool
    max_micro_batches: int

    def with_cut(self, split_point: int, num_micro_batches: int) -> "World":
        """The same with another P and N for all devices."""
        return replace(self, kinds=[kind.with_cut(split_point, num_micro_batches) for kind in self.kinds])


@dataclass(frozen=True)
class Training:
    """What the iterations of a round took, each array by device: shape [K].

    Attributes:
        seconds: from the round's start until the device had trained; with devices in turn, its own time.
        iterations: number of iterations.
        device_s: seconds that it computed.
        uplink_s, downlink_s: seconds that its micro-batches held the links.
        busy_s: seconds in which a server process computed; mean over the server processes.
        work_s: seconds of one core that all server processes needed.
        served_s: when the server had done everything, updates included; 0 if it had nothing to do, or if
            devices train in turn.
        simulated: largest number of iterations of a device that were simulated; others follow from them.
    """

    seconds: Array
    iterations: IntArray
    device_s: Array
    uplink_s: Array
    downlink_s: Array
    busy_s: float
    work_s: float
    served_s: float
    simulated: int


def train(world: World, fleet: Fleet, iterations: IntArray, last: IntArray, began_s: float) -> Training:
    """Simulates the iterations of a round.

    Args:
        world: what stays the same.
        fleet: devices that train.
        iterations: number of iterations of each; 0 for none.
        last: samples of its last mini-batch, if they are fewer than B; otherwise 0.
        began_s: seconds since the training began, for traces.
    """
    classes = classes_of(fleet, iterations, last, grouped=not _in_rotation(world.strategy))
    longest = int(iterations.max(initial=0))
    part = make_part(classes, world.kinds, world.lines, began_s, longest)
    whole, ended = (np.stack([own.device_s(), *own.link_s()]) for own in (part.whole, part.last))
    device_s, uplink_s, downlink_s = whole * part.limits + (ended - whole) * (part.limits > 0)
    seconds, most = device_s.copy(), _most_iterations(world, part)  # those that train alone only compute
    busy_s = work_s = served_s = 0.0
    for own in _served_together(world, classes):
        some = make_part(classes.take(own), world.kinds, world.lines, began_s, most)
        trained, wanted, limits = _serve(world, some), classes.iterations[own], some.limits
        slope = (trained.ends - trained.middle) / (limits - limits // 2)
        weight = some.classes.fleet.weight
        seconds[own] = trained.ends
        if (wanted > most).any():
            alone = some.whole.alone_ends(some.whole.zeros)
            seconds[own] += _later_s(wanted, weight, most, slope, alone)
        longer = float(weight @ wanted) / float(weight @ limits)
        busy_s, work_s = busy_s + trained.busy_s * longer, work_s + trained.work_s * longer
        after_s = trained.served_s - float(trained.ends.max())
        served_s = max(served_s, float(seconds[own].max()) + after_s if trained.served_s else 0.0)
    of, simulated = classes.of, min(most, longest)
    each = seconds[of], iterations, device_s[of], uplink_s[of], downlink_s[of]
    return Training(*each, busy_s / world.num_servers, work_s, served_s, simulated)


def _later_s(wanted: IntArray, weight: Array, most: int, slope: Array, alone: Array) -> Array:
    """Seconds of the iterations that are not simulated: as before, but for those who do not train any more.

    Args:
        wanted: iterations of each class.
        weight: devices of each class.
        most: iterations that were simulated.
        slope: seconds of an iteration in the second half of them.
        alone: seconds of an iteration of a device that has the server to itself.
    """
    half = most - most // 2
    seen = float(weight @ np.clip(wanted - most // 2, 0, half)) / half  # devices that trained in it, mean
    found, before = np.zeros(len(wanted)), most
    for edge in np.unique(wanted[wanted > most]):
        there = wanted >= edge
        share = weight[there].sum() / seen
        found += there * (edge - before) * np.maximum(alone, slope * share)
        before = edge
    return found


def _in_rotation(strategy: Strategy) -> bool:
    """Whether devices wait for each other in the order of their numbers, so that none are alike."""
    return strategy.shared_half and not strategy.merged and not strategy.in_turn


def _served_together(world: World, classes: Classes) -> Iterator[IntArray]:
    """Indices of the classes that use the same server process."""
    crosses = np.array([not kind.alone for kind in world.kinds])[classes.fleet.kind]
    crosses &= classes.iterations > 0
    for server in np.unique(classes.fleet.server[crosses]):
        yield np.flatnonzero(crosses & (classes.fleet.server == server))


def _most_iterations(world: World, part: Part) -> int:
    """How many iterations of each class are simulated: two at least, by which others are reckoned."""
    return max(2, world.max_micro_batches // int(part.whole.counts.sum()))


def _serve(world: World, part: Part) -> Trained:
    strategy = world.strategy
    if strategy.in_turn:
        return one_by_one(part)
    if strategy.merged:
        return merge(part, world.kinds)
    return rotate(part) if strategy.shared_half else serve(part, world.cores)
