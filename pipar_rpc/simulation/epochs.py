"""Epochs of a simulation, round by round: who trains, who drops out, and what models take on their way."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipar_rpc.aggregation.participation import Participation, build_participation
from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.random_streams import sequence
from pipar_rpc.plan.simulation_plan import SimulationPlan
from pipar_rpc.simulation.fleet import Fleet, iterations_of, last_sizes
from pipar_rpc.simulation.lines import IntArray
from pipar_rpc.simulation.models import Models
from pipar_rpc.simulation.training import Training, World, train
from pipar_rpc.timing.stage_recurrence import Array

RESOURCES = ("device_s", "uplink_s", "downlink_s")
NOT_LOST = np.iinfo(np.int64).max  # iterations after which a device drops out


@dataclass
class EpochTimes:
    """What an epoch took, in real seconds; arrays have a number for each device: shape [K].

    Attributes:
        seconds: from the start of the first round to the end of the last average and its distribution.
        own_s: the device's own rounds: training and upload, without waiting for others; 0 if it sat out.
        training_s: the training in them.
        iterations: iterations that it trained.
        device_s: seconds that it computed.
        uplink_s, downlink_s: seconds that its micro-batches held the links.
        busy_s: seconds in which a server process computed, averages included; mean over the processes.
        work_s: seconds of one core that all server processes needed, averages included.
        needed_s: what the median device of a round needs of each of `RESOURCES`, or in turn all of them; sums
            over the rounds.
        lost: number of devices that have dropped out by the end.
        simulated: largest number of iterations of a round that were simulated one by one.
    """

    seconds: float
    own_s: Array
    training_s: Array
    iterations: IntArray
    device_s: Array
    uplink_s: Array
    downlink_s: Array
    busy_s: float = 0.0
    work_s: float = 0.0
    needed_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0.0))
    lost: int = 0
    simulated: int = 0

    @classmethod
    def empty(cls, count: int) -> "EpochTimes":
        """Of `count` devices that have done nothing."""
        own, training, device, up, down = (np.zeros(count) for _ in range(5))
        return cls(0.0, own, training, np.zeros(count, dtype=int), device, up, down)

    def add(self, chosen: IntArray, trained: Training, own_s: Array, seconds: float, in_turn: bool) -> None:
        """Adds a round of the chosen devices, which train at the same time or in turn."""
        self.seconds += seconds
        self.own_s[chosen] += own_s
        self.training_s[chosen] += trained.seconds
        self.iterations[chosen] += trained.iterations
        self.device_s[chosen] += trained.device_s
        self.uplink_s[chosen] += trained.uplink_s
        self.downlink_s[chosen] += trained.downlink_s
        self.busy_s += trained.busy_s
        self.work_s += trained.work_s
        turns = int((trained.iterations > 0).sum()) if in_turn else 1
        for name in RESOURCES:
            self.needed_s[name] += turns * median_s(trained, name)
        self.simulated = max(self.simulated, trained.simulated)


def median_s(of: EpochTimes | Training, resource: str) -> float:
    """Seconds for which the median device of those that trained needs one of `RESOURCES`; 0 without any."""
    each: Array = getattr(of, resource)[of.iterations > 0]
    return float(np.median(each)) if len(each) else 0.0


@dataclass
class _Membership:
    """Which devices are there.

    Attributes:
        present: whether each is, shape [K].
        gone: whether each has left for good.
        round: number of the round, from 1.
    """

    present: NDArray[np.bool_]
    gone: NDArray[np.bool_]
    round: int = 0


class Epochs:
    """Simulates the epochs of a plan.

    Args:
        plan: plan of the job.
        world: what stays the same.
        fleet: all devices.
    """

    def __init__(self, plan: SimulationPlan, world: World, fleet: Fleet) -> None:
        self._plan, self._world, self._fleet = plan, world, fleet
        count, settings = len(fleet), plan.settings
        self._lengths, self._last = iterations_of(fleet, world.kinds), last_sizes(fleet, world.kinds)
        self._policy: Participation = build_participation(settings.participation, settings.seed, count)
        self._models = Models(world, fleet)
        self._members = _Membership(np.ones(count, dtype=bool), np.zeros(count, dtype=bool))
        self._notice_s = plan.spec.notice_s / settings.time_scale
        self._known: dict[tuple[bytes, ...], Training] = {}
        self._elapsed_s = 0.0

    def run(self) -> Iterator[EpochTimes]:
        """Yields the epochs; raises PeerError when too few devices are left."""
        every = self._plan.settings.aggregation_every
        for _ in range(self._plan.settings.epochs):
            self._require_devices()
            times, start = EpochTimes.empty(len(self._fleet)), 0
            while start < (length := int(self._lengths[self._members.present].max(initial=0))):
                stop = start + (every if every > 0 else length)
                self._round(times, start, stop)
                start = stop
            times.lost = int((~self._members.present).sum())
            yield times

    def _round(self, times: EpochTimes, start: int, stop: int) -> None:
        members, world = self._members, self._world
        members.round += 1
        self._come_and_go()
        chosen = self._choose(members.round, start)
        iterations = np.clip(np.minimum(stop, self._lengths[chosen]) - start, 0, None)
        last = np.where(stop >= self._lengths[chosen], self._last[chosen], 0)
        until = self._drop_out(chosen, iterations)
        last[until < iterations] = 0
        trained = self._train(chosen, np.minimum(iterations, until), last)
        lost = until < NOT_LOST
        self._members.present[chosen[lost]] = False
        self._require_devices()
        uploaded = self._models.uploaded(chosen, self._elapsed_s, trained.seconds)
        own_s = np.where(lost, trained.seconds, uploaded)
        waited_s = np.where(lost, trained.seconds + self._notice_s, uploaded)
        if world.strategy.in_turn:
            came_s = self._models.downloaded(chosen, self._elapsed_s, 0.0)
            seconds = float((waited_s + came_s)[trained.iterations > 0].sum())
        else:
            seconds = max(float(waited_s.max(initial=0.0)), trained.served_s)
        if world.aggregates and not world.strategy.in_turn:
            average_s = self._models.average_s(chosen[~lost])
            seconds += average_s
            times.busy_s += average_s / world.num_servers
            times.work_s += average_s
            receivers = self._choose(members.round + 1, stop)
            seconds += float(self._models.downloaded(receivers, self._elapsed_s, seconds).max(initial=0.0))
        times.add(chosen, trained, own_s, seconds, world.strategy.in_turn)
        self._elapsed_s += seconds

    def _come_and_go(self) -> None:
        """Devices that have dropped out may come back; some leave on purpose."""
        members, faults, round_ = self._members, self._plan.faults, self._members.round
        if share := self._plan.spec.return_probability:
            back = self._draw("return") < share
            members.present |= back & ~members.gone
        for name, before in faults.leave.items():
            number = int(name.removeprefix("device"))
            if round_ >= before:
                members.present[number - 1], members.gone[number - 1] = False, True
        self._require_devices()

    def _require_devices(self) -> None:
        """Raises PeerError if so few devices are left that a training would end."""
        left, least = int(self._members.present.sum()), self._plan.faults.min_devices
        if left < least:
            raise PeerError(
                f"{left} devices are left in round {self._members.round}, fault.min_devices={least}"
            )

    def _draw(self, what: str) -> Array:
        """A number 0..1 for each device in this round."""
        stream = sequence(self._plan.settings.seed, "simulation", what, self._members.round)
        return np.random.default_rng(stream).random(len(self._fleet))

    def _choose(self, number: int, start: int) -> IntArray:
        """Indices of the devices that train a round, as a training would choose them."""
        there = self._members.present
        left = there & (self._lengths > start)
        numbers = np.flatnonzero(left if left.any() else there) + 1
        if self._plan.settings.participation.everyone:
            return numbers - 1
        return np.array([*self._policy.choose(number, numbers.tolist())], dtype=int) - 1

    def _drop_out(self, chosen: IntArray, iterations: IntArray) -> IntArray:
        """Iterations after which each drops out of the round; `NOT_LOST` if it stays."""
        until = np.full(len(chosen), NOT_LOST)
        if share := self._plan.spec.drop_probability:
            lost = self._draw("drop")[chosen] < share
            until[lost] = (self._draw("drop after")[chosen] * iterations).astype(int)[lost]
        return until

    def _train(self, chosen: IntArray, iterations: IntArray, last: IntArray) -> Training:
        """The training of a round; one that is the same as another is not computed again."""
        began_s = 0.0 if self._world.lines.constant else self._elapsed_s
        key = (chosen.tobytes(), iterations.tobytes(), last.tobytes(), np.float64(began_s).tobytes())
        if key not in self._known:
            trained = train(self._world, self._fleet.take(chosen), iterations, last, began_s)
            self._known = {key: trained}  # of rounds that are all different, the last one is enough
        return self._known[key]
