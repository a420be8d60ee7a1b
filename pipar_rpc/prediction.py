"""How long an iteration will take on one device, for every split point P and number of micro-batches N.

By the stage recurrence of `pipar_rpc.cost`, from how long each unit takes on the device and on the server and
how fast the links are. A unit's time depends on the size of the micro-batch as it was measured;
latency counts, and server halves share the server's cores. What it takes to handle a micro-batch, whatever
its size, counts as the server's work, which most of it is: this is what N costs where devices are fast.
P = Q is federated learning: nothing crosses but models. What moving models costs is spread over the
iterations between two aggregations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from pipar_rpc.cost import Array, StageTimes, iteration_seconds
from pipar_rpc.pace import UnitTimes, interpolate

LABEL_BYTES = 8  # an int64 for each sample, sent with the activation


@dataclass(frozen=True)
class UnitSizes:
    """What one cut unit needs on the network and in memory.

    Attributes:
        activation_bytes: of its output for one sample.
        state_bytes: of its parameters and buffers.
        held_bytes: kept for the backward pass of one sample.
        trained: whether it has anything to train.
    """

    activation_bytes: int
    state_bytes: int
    held_bytes: int
    trained: bool = True


@dataclass(frozen=True)
class DeviceFacts:
    """What the choice for one device rests on.

    Attributes:
        units: times of all Q units on the device.
        uplink_mbps, downlink_mbps: Mbit/s (10^6 bit/s), infinite for no limit.
        uplink_latency_s, downlink_latency_s: of a message, without its transfer.
        batch_size: B.
        smallest: samples that a micro-batch has at least.
        iterations: between two aggregations; infinite if nothing is aggregated.
        memory_bytes: for weights, gradients, momentum and activations; infinite for no limit.
        num_samples: of an epoch, whose last mini-batch may be smaller; infinite if that does not matter.
    """

    units: Sequence[UnitTimes]
    uplink_mbps: float
    downlink_mbps: float
    uplink_latency_s: float
    downlink_latency_s: float
    batch_size: int
    smallest: int
    iterations: float
    memory_bytes: float = math.inf
    num_samples: float = math.inf


@dataclass(frozen=True)
class ServerFacts:
    """What is known of the server.

    Attributes:
        units: times of all Q units, of a server half that has the server to itself.
        halves_at_once: how many server halves compute as fast as one alone; more share what there is. By
            the micro-batch's size: with small ones most of the time is Python's, one thread at a time.
        message_s: seconds that a micro-batch takes besides computing: RPC, threads, Python.
        shared_message_s: the same for each half that computes; their sum counts, if it is larger.
    """

    units: Sequence[UnitTimes]
    halves_at_once: Mapping[int, float]
    message_s: float = 0.0
    shared_message_s: float = 0.0

    def slowdown(self, halves: int, most_samples: int) -> Array:
        """How many times longer a half takes for 0, 1, ... samples while `halves` compute."""
        sizes = sorted(self.halves_at_once)
        together = np.interp(range(most_samples + 1), sizes, [self.halves_at_once[size] for size in sizes])
        return np.maximum(1.0, halves / together)


@dataclass(frozen=True)
class Candidate:
    """One way to cut the network and the mini-batch, and what it is predicted to take.

    Attributes:
        split_point: P.
        num_micro_batches: N.
        iteration_s: seconds of an iteration, models not included.
        moving_s: seconds for models at the aggregation, for each iteration.
        stages: mean seconds of each stage of one micro-batch.
    """

    split_point: int
    num_micro_batches: int
    iteration_s: float
    moving_s: float
    stages: StageTimes

    @property
    def place(self) -> tuple[int, int]:
        """P and N."""
        return self.split_point, self.num_micro_batches

    @property
    def total_s(self) -> float:
        """What counts: seconds for each iteration, models included."""
        return self.iteration_s + self.moving_s


def needed_bytes(sizes: Sequence[UnitSizes], batch_size: int) -> list[int]:
    """For each split point: weights, gradients and momentum if trained; what all N forward passes keep."""
    each = [(1 + 2 * unit.trained) * unit.state_bytes + batch_size * unit.held_bytes for unit in sizes]
    return list(accumulate(each))


def move_seconds(sizes: Sequence[UnitSizes], device: DeviceFacts, before: int, after: int) -> float:
    """Seconds for layers to move when the split point changes.

    Weights and momentum go down to the device; only momentum goes up, for the server knows the average.
    """
    moving = sizes[min(before, after) : max(before, after)]
    weights = sum(unit.state_bytes for unit in moving) * 8e-6
    momentum = sum(unit.state_bytes for unit in moving if unit.trained) * 8e-6
    return (weights + momentum) / device.downlink_mbps if after > before else momentum / device.uplink_mbps


def mean_iteration_s(
    device: DeviceFacts, server: ServerFacts, sizes: Sequence[UnitSizes], halves: int, chosen: Candidate
) -> float:
    """Seconds of an iteration, mean over an epoch; the last mini-batch may be smaller than the others."""
    last = int(device.num_samples % device.batch_size) if math.isfinite(device.num_samples) else 0
    if not last:
        return chosen.iteration_s
    smaller = Predictor(replace(device, batch_size=last), server, sizes, halves)
    parts = min(chosen.num_micro_batches, smaller.most_micro_batches)
    last_s = smaller.candidate(chosen.split_point, parts).iteration_s
    others = device.num_samples // device.batch_size
    return float((others * chosen.iteration_s + last_s) / (others + 1))


def fitting(sizes: Sequence[UnitSizes], batch_size: int, memory_bytes: float) -> list[bool]:
    """For each split point whether it fits into a device's memory."""
    return [needed <= memory_bytes for needed in needed_bytes(sizes, batch_size)]


class Predictor:
    """Predicts iterations of one device.

    Args:
        device: what is known of it.
        server: what is known of the server.
        sizes: of each unit.
        halves: how many server halves compute at a time.
    """

    def __init__(
        self, device: DeviceFacts, server: ServerFacts, sizes: Sequence[UnitSizes], halves: int
    ) -> None:
        self.device, self.sizes = device, sizes
        slowdown = server.slowdown(halves, device.batch_size)
        # A device half without anything to train has no backward pass and no update, and gets no gradient.
        self._trained = np.logical_or.accumulate([unit.trained for unit in sizes])
        self._forward = _by_split_point(device.units, "forward", device.batch_size)
        backward = _by_split_point(device.units, "backward", device.batch_size)
        self._backward = backward * self._trained[:, None]
        self._server_forward = slowdown * _rest(server.units, "forward", device.batch_size)
        self._server_backward = slowdown * _rest(server.units, "backward", device.batch_size)
        handling = max(server.message_s, halves * server.shared_message_s)
        self._server_forward[:-1] += handling  # of a micro-batch of any size; at P = Q nothing crosses
        self._update = np.cumsum([unit.update for unit in device.units]) * self._trained
        crossing = np.array([unit.activation_bytes for unit in sizes], dtype=float)
        labels = np.full(len(sizes), float(LABEL_BYTES))
        crossing[-1] = labels[-1] = 0.0  # P = Q: the loss is computed on the device
        self._uplink = (crossing + labels) * 8e-6 / device.uplink_mbps  # seconds for one sample
        self._downlink = crossing * self._trained * 8e-6 / device.downlink_mbps
        models = np.cumsum([float(unit.state_bytes) for unit in sizes]) * 8e-6
        moving = models / device.uplink_mbps + models / device.downlink_mbps
        self.moving_s: Array = moving / device.iterations
        self.fits = fitting(sizes, device.batch_size, device.memory_bytes)
        self.most_micro_batches = max(1, device.batch_size // device.smallest)

    def stages(self, num_micro_batches: int) -> StageTimes:
        """Stage times for every split point: arrays of shape [Q, N]."""
        each, larger = divmod(self.device.batch_size, num_micro_batches)
        samples = np.array([each + 1] * larger + [each] * (num_micro_batches - larger))
        return StageTimes(
            device_forward=self._forward[:, samples],
            uplink=self._uplink[:, None] * samples,
            server_forward=self._server_forward[:, samples],
            server_backward=self._server_backward[:, samples],
            downlink=self._downlink[:, None] * samples,
            device_backward=self._backward[:, samples],
            uplink_latency=self.device.uplink_latency_s,
            downlink_latency=self.device.downlink_latency_s,
            update=self._update,
        )

    def seconds(self, num_micro_batches: int) -> Array:
        """Seconds of an iteration for every split point: shape [Q]."""
        times = self.stages(num_micro_batches)
        found = iteration_seconds(times, num_micro_batches)
        alone = np.sum(times.device_forward + times.device_backward, axis=-1) + self._update
        found[-1] = alone[-1]  # at P = Q nothing crosses, so latency does not count
        return found

    def totals(self) -> Array:
        """Seconds of an iteration, models included, for every split point and N: shape [Q, most N].

        Infinite where N > 1 and P = Q: alone, a device gains nothing by it.
        """
        counts = range(1, self.most_micro_batches + 1)
        found = np.stack([self.seconds(n) + self.moving_s for n in counts], axis=1)
        found[-1, 1:] = math.inf
        return found

    def candidate(self, split_point: int, num_micro_batches: int) -> Candidate:
        """One of them with its stages."""
        row = split_point - 1
        times = self.stages(num_micro_batches)
        means = {
            name: float(np.mean(value[row]))
            for name, value in vars(times).items()
            if isinstance(value, np.ndarray) and name != "update"
        }
        stages = StageTimes(
            **means,
            uplink_latency=times.uplink_latency,
            downlink_latency=times.downlink_latency,
            update=float(self._update[row]),
        )
        seconds = float(self.seconds(num_micro_batches)[row])
        return Candidate(split_point, num_micro_batches, seconds, float(self.moving_s[row]), stages)

    def published_counts(self) -> list[int]:
        """The paper's N for every split point 1..Q-1, from stage times of the whole mini-batch.

        N = 1 + ceil((t(u) + t(f^s) + t(b^s) + t(d)) / min(t(f^c), t(b^c))), without t(b^c) if there is none
        """
        whole = self.stages(1)
        away = whole.uplink + whole.server_forward + whole.server_backward + whole.downlink
        forward, backward = whole.device_forward, whole.device_backward
        here = np.where(self._trained[:, None], np.minimum(forward, backward), forward)
        counts = 1 + np.ceil(np.asarray(away)[:-1, 0] / np.maximum(here[:-1, 0], 1e-12))
        return [int(min(count, self.most_micro_batches)) for count in counts]


def _table(units: Sequence[UnitTimes], direction: str, batch_size: int) -> Array:
    """Seconds of each unit for 0..B samples: shape [Q, B+1]."""
    rows = []
    for unit in units:
        times: dict[int, float] = getattr(unit, direction)
        sizes = [0, *sorted(times), max(times) * batch_size]
        seconds = [0.0, *(times[size] for size in sizes[1:-1]), interpolate(times, sizes[-1])]
        rows.append(np.interp(np.arange(batch_size + 1), sizes, seconds))
    return np.stack(rows)


def _by_split_point(units: Sequence[UnitTimes], direction: str, batch_size: int) -> Array:
    """Seconds of units 1..P for 0..B samples: shape [Q, B+1]."""
    return np.cumsum(_table(units, direction, batch_size), axis=0)


def _rest(units: Sequence[UnitTimes], direction: str, batch_size: int) -> Array:
    """Seconds of units P+1..Q for 0..B samples: shape [Q, B+1]."""
    table = _table(units, direction, batch_size)
    return np.asarray(np.cumsum(table[::-1], axis=0)[::-1] - table)
