"""How long an iteration will take on one device, for every split point P and number of micro-batches N.

By the stage recurrence of `pipar_rpc.timing`, from how long each unit takes on the device and on the
server and how fast the links are. A unit's time depends on the size of the micro-batch as it was measured;
latency counts, and server halves share the server's cores. What it takes to handle a micro-batch, whatever
its size, is what N costs where devices are fast. On the server it counts as work; what it keeps of the
device's computing thread follows the forward pass, and is not stretched on an emulated device; the rest of
the answer's way is latency. No iteration is shorter than the work of all processes on the server's machine,
messages included, takes on its cores (`core_time`).
P = Q is federated learning: nothing crosses but models. What moving models costs is spread over the
iterations between two aggregations. Where the labels stay on the devices, micro-batches cross twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipar_rpc.base.microbatch import most_micro_batches
from pipar_rpc.selector.core_time import CoreTime
from pipar_rpc.selector.facts import DeviceFacts, ServerFacts, UnitSizes, fitting
from pipar_rpc.selector.tables import by_split_point, crossing_bytes, payloads, rest_of, table
from pipar_rpc.timing.stage_recurrence import Array, StageTimes, UShapeTimes, iteration_seconds


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
        self._trained: Array = np.logical_or.accumulate([unit.trained for unit in sizes])
        self._core_time = CoreTime(device, server, halves, self._trained)
        self._forward = by_split_point(device.units, "forward", device.batch_size)
        backward = by_split_point(device.units, "backward", device.batch_size)
        self._backward = backward * self._trained[:, None]
        there = server.units[: len(sizes) - device.tail_units]
        self._server_forward = slowdown * rest_of(there, "forward", device.batch_size, len(sizes))
        self._server_backward = slowdown * rest_of(there, "backward", device.batch_size, len(sizes))
        handling = server.handling_s(halves)
        self._server_forward[:-1] += handling  # of a micro-batch of any size; at P = Q nothing crosses
        self._forward[:-1] += device.message.submit_s
        self._update = np.cumsum([unit.update for unit in device.units]) * self._trained
        self._add_coding(slowdown)
        up, down = crossing_bytes(device, sizes)
        self._uplink = up * 8e-6 / device.uplink_mbps
        self._downlink = down * self._trained[:, None] * 8e-6 / device.downlink_mbps
        models = np.cumsum([float(unit.model_bytes) for unit in sizes]) * 8e-6
        self._second: dict[str, Array] = {}
        if device.tail_units:
            self._add_tail(slowdown, handling)
            tail = sizes[len(sizes) - device.tail_units :]
            models[:-1] += sum(unit.model_bytes for unit in tail) * 8e-6
        moving = models / device.uplink_mbps + models / device.downlink_mbps
        self.moving_s: Array = moving / device.iterations
        self.fits = fitting(sizes, device.batch_size, device.memory_bytes, device.tail_units)
        self.most_micro_batches = most_micro_batches(device.batch_size, device.smallest)

    def _add_coding(self, slowdown: Array) -> None:
        """Adds what is computed at the cut to the pass before or after; at P = Q nothing crosses."""
        device, crossing = self.device, self.device.crossing
        if crossing is None:
            return
        trained = self._trained[:-1, None]
        here = [table(device.units, direction, device.batch_size) for direction in ("encode", "decode")]
        self._forward[:-1] += here[0][:-1]
        self._backward[:-1] += here[1][:-1] * trained
        if not crossing.server:  # without codecs: mechanisms at the cut are the device's alone
            return
        there = [table(crossing.server, direction, device.batch_size) for direction in ("decode", "encode")]
        self._server_forward[:-1] += there[0][:-1] * slowdown
        self._server_backward[:-1] += there[1][:-1] * slowdown * trained

    def _add_tail(self, slowdown: Array, handling: float) -> None:
        """Adds the second crossing and the device's last units; at P = Q there is none."""
        device, last = self.device, len(self.sizes) - self.device.tail_units
        trained, batch_size = float(self._trained[last - 1]), device.batch_size
        tail = sum(
            table(device.units[last:], direction, batch_size).sum(axis=0)
            for direction in ("forward", "backward")
        )
        tail = tail + device.message.submit_s
        self._server_backward[:-1] += handling
        self._update[:-1] += sum(unit.update for unit in device.units[last:])
        if device.crossing is not None and device.crossing.server:
            here, there = device.units[last - 1 : last], device.crossing.server[last - 1 : last]
            tail = tail + table(here, "far_decode", batch_size)[0]
            tail = tail + table(here, "far_encode", batch_size)[0] * trained
            self._server_forward[:-1] += table(there, "far_encode", batch_size)[0] * slowdown
            self._server_backward[:-1] += table(there, "far_decode", batch_size)[0] * slowdown * trained
        outputs, gradients = (own[last - 1] * 8e-6 for own in payloads(device, self.sizes))
        cut = np.ones((len(self.sizes), 1))
        cut[-1] = 0.0
        self._second = {
            "output_downlink": cut * outputs / device.downlink_mbps,
            "device_tail": cut * tail,
            "return_uplink": cut * gradients * trained / device.uplink_mbps,
        }

    def _samples(self, num_micro_batches: int) -> NDArray[np.int_]:
        """Samples of each micro-batch."""
        each, larger = divmod(self.device.batch_size, num_micro_batches)
        return np.array([each + 1] * larger + [each] * (num_micro_batches - larger))

    def stages(self, num_micro_batches: int) -> StageTimes:
        """Stage times for every split point: arrays of shape [Q, N]."""
        samples = self._samples(num_micro_batches)
        times = StageTimes(
            device_forward=self._forward[:, samples],
            uplink=self._uplink[:, samples],
            server_forward=self._server_forward[:, samples],
            server_backward=self._server_backward[:, samples],
            downlink=self._downlink[:, samples],
            device_backward=self._backward[:, samples],
            uplink_latency=self.device.uplink_latency_s,
            downlink_latency=self.device.downlink_latency_s + self.device.message.answer_s,
            update=self._update,
        )
        if not self._second:
            return times
        second = {name: own[:, samples] for name, own in self._second.items()}
        return UShapeTimes(**vars(times) | second)

    def seconds(self, num_micro_batches: int) -> Array:
        """Seconds of an iteration for every split point: shape [Q]."""
        times = self.stages(num_micro_batches)
        found = iteration_seconds(times, num_micro_batches)
        alone = np.sum(times.device_forward + times.device_backward, axis=-1) + self._update
        found[-1] = alone[-1]  # at P = Q nothing crosses, so latency does not count
        return np.maximum(found, self._core_time.seconds(self._samples(num_micro_batches)))

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
        stages = type(times)(
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
