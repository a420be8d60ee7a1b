"""What one iteration consists of, for devices that are configured alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pipar_rpc.base.microbatch import most_micro_batches
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.selector.facts import Crossing, DeviceFacts, MessageCost, ServerFacts, UnitSizes
from pipar_rpc.selector.prediction import Predictor
from pipar_rpc.selector.tables import rest_of
from pipar_rpc.testbed.unit_times import UnitTimes, interpolate
from pipar_rpc.timing.stage_recurrence import Array


@dataclass(frozen=True)
class Known:
    """What was recorded of the units of the network, in real seconds.

    Attributes:
        units: times of all Q units on a device of the kind.
        crossing: bytes that cross and times of the server's codecs.
        message: what a micro-batch takes on the device besides computing.
        server: times on the server, and how many halves it computes at a time.
        sizes: sizes of each unit.
    """

    units: Sequence[UnitTimes]
    crossing: Crossing
    message: MessageCost
    server: ServerFacts
    sizes: Sequence[UnitSizes]


@dataclass(frozen=True)
class Shape:
    """One iteration: what its N micro-batches take in each stage, on a device whose factors are 1.

    Attributes:
        samples: samples of each micro-batch, shape [N].
        forward, backward: seconds on the device that grow with its slowdown, shape [N].
        submit_s: seconds on the device for each micro-batch that do not.
        uplink, downlink: Mbit (10^6 bit), shape [N].
        server: seconds of one of the server's cores, forward and backward pass, shape [N].
        coding: those of them that the server's codecs take, shape [N].
        update_s: seconds of the device's update.
        server_update_s: seconds of the update of the server half.
    """

    samples: Array
    forward: Array
    backward: Array
    submit_s: float
    uplink: Array
    downlink: Array
    server: Array
    coding: Array
    update_s: float
    server_update_s: float

    @cached_property
    def device_s(self) -> float:
        """Seconds that the device computes in an iteration."""
        return float(self.forward.sum() + self.backward.sum()) + self.update_s

    @cached_property
    def server_s(self) -> float:
        """Seconds of one of the server's cores in an iteration."""
        return float(self.server.sum()) + self.server_update_s


class Kind:
    """Devices that are configured alike, with one split point P and number of micro-batches N.

    Args:
        job: job of one of them.
        num_samples: mean number of samples of such a device.
        known: what was recorded.
    """

    def __init__(self, job: DeviceJob, num_samples: float, known: Known) -> None:
        self.job, self.num_samples, self.known = job, num_samples, known
        self.cut = job.split_point, job.num_micro_batches
        self._predictors: dict[int, Predictor] = {}
        self._shapes: dict[tuple[int, int, int], Shape] = {}

    def with_cut(self, split_point: int, num_micro_batches: int) -> "Kind":
        """The same with another P and N; what was computed is shared."""
        other = Kind(self.job, self.num_samples, self.known)
        other.cut = split_point, num_micro_batches
        other._predictors, other._shapes = self._predictors, self._shapes
        return other

    @property
    def batch_size(self) -> int:
        """B."""
        return self.job.batch_size

    @property
    def alone(self) -> bool:
        """Whether P = Q, so that nothing crosses but models."""
        return self.cut[0] == self.job.num_units

    @property
    def model_mbit(self) -> float:
        """Mbit of the device half when models are averaged."""
        return sum(unit.model_bytes for unit in self.known.sizes[: self.cut[0]]) * 8e-6

    def averaged_bytes(self, server_halves: bool) -> int:
        """Bytes of a device's network that are averaged, without or with the server half."""
        units = self.known.sizes if server_halves else self.known.sizes[: self.cut[0]]
        return sum(unit.state_bytes for unit in units)

    def merged_s(self, samples: int) -> float:
        """Seconds in which one server half computes so many samples as one micro-batch."""
        units = self.known.server.units[self.cut[0] :]
        return sum(interpolate(unit.forward, samples) + interpolate(unit.backward, samples) for unit in units)

    @property
    def most_micro_batches(self) -> int:
        """The largest N."""
        return most_micro_batches(self.batch_size, self.job.smallest)

    def shape(self, size: int) -> Shape:
        """An iteration with a mini-batch of `size` samples, from 1 to B."""
        key = (*self.cut, size)
        if key not in self._shapes:
            self._shapes[key] = self._shape(size)
        return self._shapes[key]

    def _shape(self, size: int) -> Shape:
        row, known = self.cut[0] - 1, self.known
        count = min(self.cut[1], most_micro_batches(size, self.job.smallest))
        each, larger = divmod(size, count)
        samples = np.array([each + 1] * larger + [each] * (count - larger))
        stages = self._predictor(size).stages(count)
        server = _of(stages.server_forward, row) + _of(stages.server_backward, row)
        passes = (rest_of(known.server.units, way, size, len(known.sizes)) for way in ("forward", "backward"))
        computing = sum(table[row, samples] for table in passes)
        handling = 0.0 if self.alone else self._handling_s()
        return Shape(
            samples=samples.astype(float),
            forward=_of(stages.device_forward, row),
            backward=_of(stages.device_backward, row),
            submit_s=0.0 if self.alone else known.message.submit_s,
            uplink=_of(stages.uplink, row),
            downlink=_of(stages.downlink, row),
            server=server + handling,
            coding=server - computing + handling,
            update_s=float(np.asarray(stages.update)[row]),
            server_update_s=sum(unit.update for unit in known.server.units[self.cut[0] :]),
        )

    def _handling_s(self) -> float:
        """Core seconds of a micro-batch besides computing: what many of them take together counts."""
        server, typical = self.known.server, max(1, self.batch_size // self.cut[1])
        return max(server.message_s, halves_at_once(server, typical) * server.shared_message_s)

    def _predictor(self, size: int) -> Predictor:
        """Of one device that has the server to itself, over links of 1 Mbit/s: its seconds are Mbit."""
        if size not in self._predictors:
            known = self.known
            device = DeviceFacts(
                *(known.units, 1.0, 1.0, 0.0, 0.0, size, self.job.smallest, np.inf), crossing=known.crossing
            )
            alone = replace(known.server, halves_at_once={1: 1.0}, message_s=0.0, shared_message_s=0.0)
            self._predictors[size] = Predictor(device, alone, known.sizes, 1)
        return self._predictors[size]


def halves_at_once(server: ServerFacts, samples: float) -> float:
    """How many halves the server computes at a time as fast as one alone, with such micro-batches."""
    sizes = sorted(server.halves_at_once)
    return float(np.interp(samples, sizes, [server.halves_at_once[size] for size in sizes]))


def _of(stage: float | Array, row: int) -> Array:
    """One split point's times, shape [N]."""
    return np.asarray(np.asarray(stage)[row], dtype=float)
