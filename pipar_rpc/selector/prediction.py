"""How long an iteration will take on one device, for every split point P and number of micro-batches N.

By the stage recurrence of `pipar_rpc.timing`, from how long each unit takes on the device and on the
server and how fast the links are. A unit's time depends on the size of the micro-batch as it was measured;
latency counts, and server halves share the server's cores. What it takes to handle a micro-batch, whatever
its size, counts as the server's work, which most of it is: this is what N costs where devices are fast.
P = Q is federated learning: nothing crosses but models. What moving models costs is spread over the
iterations between two aggregations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipar_rpc.base.microbatch import most_micro_batches
from pipar_rpc.selector.facts import DeviceFacts, ServerFacts, UnitSizes, fitting
from pipar_rpc.testbed.unit_times import UnitTimes, interpolate
from pipar_rpc.timing.stage_recurrence import Array, StageTimes, iteration_seconds

LABEL_BYTES = 8  # an int64 for each sample, sent with the activation


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
    def cut(self) -> tuple[int, int]:
        """P and N."""
        return self.split_point, self.num_micro_batches

    @property
    def total_s(self) -> float:
        """What counts: seconds for each iteration, models included."""
        return self.iteration_s + self.moving_s


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


class Predictor:
    """Predicts iterations of one device.

    Args:
        device: facts about the device.
        server: facts about the server.
        sizes: sizes of each unit.
        halves: number of server halves that compute at a time.
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
        self._add_coding(slowdown)
        up, down = _bytes(device, sizes)
        self._uplink = up * 8e-6 / device.uplink_mbps
        self._downlink = down * self._trained[:, None] * 8e-6 / device.downlink_mbps
        models = np.cumsum([float(unit.model_bytes) for unit in sizes]) * 8e-6
        moving = models / device.uplink_mbps + models / device.downlink_mbps
        self.moving_s: Array = moving / device.iterations
        self.fits = fitting(sizes, device.batch_size, device.memory_bytes)
        self.most_micro_batches = most_micro_batches(device.batch_size, device.smallest)

    def _add_coding(self, slowdown: Array) -> None:
        """Adds what is computed at the cut to the pass before or after; at P = Q nothing crosses."""
        device, crossing = self.device, self.device.crossing
        if crossing is None:
            return
        trained = self._trained[:-1, None]
        here = [_table(device.units, direction, device.batch_size) for direction in ("encode", "decode")]
        self._forward[:-1] += here[0][:-1]
        self._backward[:-1] += here[1][:-1] * trained
        if not crossing.server:  # without codecs: mechanisms at the cut are the device's alone
            return
        there = [_table(crossing.server, direction, device.batch_size) for direction in ("decode", "encode")]
        self._server_forward[:-1] += there[0][:-1] * slowdown
        self._server_backward[:-1] += there[1][:-1] * slowdown * trained

    def stages(self, num_micro_batches: int) -> StageTimes:
        """Stage times for every split point: arrays of shape [Q, N]."""
        each, larger = divmod(self.device.batch_size, num_micro_batches)
        samples = np.array([each + 1] * larger + [each] * (num_micro_batches - larger))
        return StageTimes(
            device_forward=self._forward[:, samples],
            uplink=self._uplink[:, samples],
            server_forward=self._server_forward[:, samples],
            server_backward=self._server_backward[:, samples],
            downlink=self._downlink[:, samples],
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


def _bytes(device: DeviceFacts, sizes: Sequence[UnitSizes]) -> tuple[Array, Array]:
    """Bytes up, with the labels, and down for each split point and 0..B samples: shape [Q, B+1]."""
    samples = np.arange(device.batch_size + 1, dtype=float)
    if device.crossing is None:
        up = np.array([unit.activation_bytes for unit in sizes], dtype=float)[:, None] * samples
        down = up.copy()
    else:
        up = device.crossing.uplink_bytes[:, : len(samples)].copy()
        down = device.crossing.downlink_bytes[:, : len(samples)].copy()
    up += LABEL_BYTES * samples
    up[-1] = down[-1] = 0.0  # P = Q: the loss is computed on the device
    return up, down


def _table(units: Sequence[UnitTimes], direction: str, batch_size: int) -> Array:
    """Seconds of each unit for 0..B samples: shape [Q, B+1]."""
    rows = []
    for unit in units:
        times: dict[int, float] = getattr(unit, direction) or {1: 0.0}
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
