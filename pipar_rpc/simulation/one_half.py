"""One server half for all devices of a server process, whose order is fixed: iteration by iteration."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from pipar_rpc.simulation.kinds import Kind
from pipar_rpc.simulation.shared_cores import Trained
from pipar_rpc.simulation.steps import Iteration, Mask, Part
from pipar_rpc.timing.stage_recurrence import Array, ends_in_order


class _Ends:
    """When the iterations of each class have ended so far."""

    def __init__(self, part: Part) -> None:
        self._limits = part.limits
        self.now: Array = np.zeros(len(part.limits))
        self.middle: Array = np.zeros(len(part.limits))

    def add(self, number: int, takes_part: Mask, ends: Array) -> None:
        """Enters iteration `number`, from 0."""
        self.now = np.where(takes_part, ends, self.now)
        self.middle = np.where(number + 1 == self._limits // 2, self.now, self.middle)


def merge(part: Part, kinds: Sequence[Kind]) -> Trained:
    """All devices' n-th micro-batches are computed as one batch, when the last of them has arrived.

    One core computes it (or as many as unit times were recorded with). What is not merged comes before:
    handling of the single messages, and codecs. All devices are answered at the same time.

    Args:
        part: classes of one server process, all with the same P and N.
        kinds: all kinds of devices.
    """
    merged_s = cache(kinds[int(part.classes.fleet.kind[0])].merged_s)
    weight, found = part.classes.fleet.weight, _Ends(part)
    free = busy_s = 0.0
    for number in range(int(part.limits.max())):
        iteration, takes_part = part.iteration(number)
        there = iteration.present & takes_part[:, None]
        arrivals = np.where(there, iteration.arrivals(found.now), -np.inf)
        samples = weight @ (iteration.each(lambda shape: shape.samples) * there)
        apart = weight @ (iteration.each(lambda shape: shape.coding) * there)
        answered = np.zeros(arrivals.shape)
        for n, (total, coding_s) in enumerate(zip(samples.tolist(), apart.tolist(), strict=True)):
            seconds = merged_s(round(total)) + coding_s
            free = max(free, float(arrivals[:, n].max())) + seconds
            busy_s += seconds
            answered[:, n] = free
        update_s = max(shape.server_update_s for shape in iteration.shapes)
        free, busy_s = free + update_s, busy_s + update_s
        found.add(number, takes_part, iteration.ends(found.now, answered))
    return Trained(found.middle, found.now, busy_s, busy_s, free)


def rotate(part: Part) -> Trained:
    """One half serves iteration 1 of every device, then iteration 2 of every device, on one core.

    A class that stands for several devices is served that many times in a row.

    Args:
        part: classes of one server process, in the order of the devices' numbers.
    """
    weight, found = part.classes.fleet.weight, _Ends(part)
    free = work_s = 0.0
    for number in range(int(part.limits.max())):
        iteration, takes_part = part.iteration(number)
        arrivals = iteration.arrivals(found.now)
        update = iteration.one(lambda shape: shape.server_update_s)[:, None]
        jobs = np.concatenate([iteration.server, update], axis=1) * (weight * takes_part)[:, None]
        ready = np.concatenate([arrivals, arrivals[:, -1:]], axis=1)
        ready = np.where(takes_part[:, None], np.maximum(ready, free), free)
        served = ends_in_order(ready.ravel(), jobs.ravel()).reshape(jobs.shape)
        free, work_s = float(served[-1, -1]), work_s + float(jobs.sum())
        found.add(number, takes_part, iteration.ends(found.now, served[:, :-1]))
    return Trained(found.middle, found.now, work_s, work_s, free)


def one_by_one(part: Part) -> Trained:
    """Each class has the server to itself, as devices that train one after the other have.

    What the server computes is summed up over the devices.
    """
    found, weight, work_s = _Ends(part), part.classes.fleet.weight, 0.0
    for number in range(int(part.limits.max())):
        iteration, takes_part = part.iteration(number)
        found.add(number, takes_part, iteration.alone_ends(found.now))
        work_s += float((weight * takes_part) @ server_seconds(iteration))
    return Trained(found.middle, found.now, work_s, work_s, 0.0)


def server_seconds(iteration: Iteration) -> Array:
    """Core seconds of an iteration of each class on the server: shape [C]."""
    return iteration.one(lambda shape: shape.server_s)
