"""The devices of a simulation, as columns of numbers; those that are alike in all of them count as one."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from pipar_rpc.base.random_streams import sequence
from pipar_rpc.plan.simulation_plan import SimulationPlan
from pipar_rpc.simulation.kinds import Kind
from pipar_rpc.simulation.lines import IntArray
from pipar_rpc.timing.stage_recurrence import Array


@dataclass(frozen=True)
class Fleet:
    """Devices, a number for each in every column: shape [K].

    Attributes:
        kind: number of its kind.
        server: number of the server process that holds its half.
        slowdown: factor of its computing time.
        uplink, downlink: factors of the rates of its links.
        latency: factor of their latency.
        line: number of the pair of lines that it has.
        shift_s: real seconds by which its bandwidth trace is ahead.
        samples: training samples.
        weight: number of devices that it stands for.
    """

    kind: IntArray
    server: IntArray
    slowdown: Array
    uplink: Array
    downlink: Array
    latency: Array
    line: IntArray
    shift_s: Array
    samples: IntArray
    weight: Array

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, indices: IntArray) -> "Fleet":
        """Some of them, by their indices from 0."""
        return Fleet(*(getattr(self, column.name)[indices] for column in fields(self)))

    def standing_for(self, count: float) -> "Fleet":
        """The same as a sample of `count` devices, all of them on one server."""
        weight = np.full(len(self), count / len(self))
        return replace(self, weight=weight, server=np.zeros_like(self.server))


def draw_fleet(plan: SimulationPlan) -> Fleet:
    """Draws the devices of a plan from its seed; a device is the same however many there are."""
    spec, count = plan.spec, plan.num_devices

    def rng(what: str) -> np.random.Generator:
        return np.random.default_rng(sequence(plan.settings.seed, "simulation", what))

    def factors(what: str) -> Array:
        return spec.factors[what].draw(count, rng(what))

    kind = np.zeros(count, dtype=int)
    for number, own in plan.kind_of.items():
        kind[number - 1] = own
    line = kind.copy()
    if spec.traces:  # behind the lines of the kinds
        line = len(plan.kinds) + (rng("trace").random(count) * len(spec.traces)).astype(int)
    mean_samples = np.array([own.num_samples for own in plan.kinds])[kind]
    shift_s = spec.trace_shift_s / plan.settings.time_scale
    return Fleet(
        kind=kind,
        server=np.arange(count) * plan.num_servers // count,  # as `holder_of`
        slowdown=factors("slowdown"),
        uplink=factors("uplink"),
        downlink=factors("downlink"),
        latency=factors("latency"),
        line=line,
        shift_s=rng("shift").uniform(0.0, shift_s, size=count) if shift_s else np.zeros(count),
        samples=np.maximum(1, np.round(mean_samples * factors("samples"))).astype(int),
        weight=np.ones(count),
    )


@dataclass(frozen=True)
class Classes:
    """Devices that do the same in a part of a round, shape [C].

    Attributes:
        fleet: one of them for each class, with the number of devices in `weight`.
        iterations: number of iterations that each trains.
        last: samples of the last of them, if they are fewer than B; otherwise 0.
        of: class of each device, shape [K].
    """

    fleet: Fleet
    iterations: IntArray
    last: IntArray
    of: IntArray

    def take(self, indices: IntArray) -> "Classes":
        """Some of the classes; of the devices nothing is known then."""
        none = np.zeros(0, dtype=int)
        return Classes(self.fleet.take(indices), self.iterations[indices], self.last[indices], none)


def classes_of(fleet: Fleet, iterations: IntArray, last: IntArray, grouped: bool) -> Classes:
    """Groups devices that are alike in everything, so that they act at the same times.

    Args:
        fleet: devices.
        iterations: number of iterations that each trains.
        last: samples of its last mini-batch, if they are fewer than B; otherwise 0.
        grouped: whether to; otherwise each is a class of its own, in the order of their numbers.
    """
    if not grouped:
        return Classes(fleet, iterations, last, np.arange(len(fleet)))
    # What the samples decide is in `iterations` and `last`.
    columns = [getattr(fleet, column.name) for column in fields(fleet) if column.name != "samples"]
    rows = np.column_stack([*columns, iterations, last]).astype(float)
    _, first, of, counts = np.unique(rows, axis=0, return_index=True, return_inverse=True, return_counts=True)
    alike = fleet.take(first)
    alike = replace(alike, weight=alike.weight * counts)
    return Classes(alike, iterations[first], last[first], np.reshape(of, -1))


def iterations_of(fleet: Fleet, kinds: Sequence[Kind]) -> IntArray:
    """Mini-batches of each device in an epoch, the last of which may be smaller."""
    return -(-fleet.samples // _batch_sizes(fleet, kinds))


def last_sizes(fleet: Fleet, kinds: Sequence[Kind]) -> IntArray:
    """Samples of each device's last mini-batch if they are fewer than B; otherwise 0."""
    return fleet.samples % _batch_sizes(fleet, kinds)


def _batch_sizes(fleet: Fleet, kinds: Sequence[Kind]) -> IntArray:
    return np.array([kind.batch_size for kind in kinds])[fleet.kind]
