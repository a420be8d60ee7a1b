"""Devices that share a server, by plain loops: no heap, no virtual time, no running maxima."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Stages = dict[str, list[float]]


@dataclass
class _Device:
    """One device: its iterations, one after the other."""

    iterations: Sequence[Stages]
    done: int = 0
    start: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    left: float | None = None  # core seconds of what is being computed
    free: float = 0.0  # when its half can begin something

    @property
    def stages(self) -> Stages:
        return self.iterations[self.done]

    @property
    def ended(self) -> bool:
        return self.done == len(self.iterations)

    def send(self) -> None:
        """Computes when the micro-batches of the present iteration arrive."""
        self.arrivals = sent_by(self.stages, self.start)
        self.answered = []

    def come_back(self) -> None:
        self.start = end_of(self.stages, self.start, self.answered)
        self.done += 1
        if not self.ended:
            self.send()


def sent_by(stages: Stages, start: float) -> list[float]:
    """When micro-batches are at the server."""
    computed, sent, found = start, start, []
    for forward, uplink in zip(stages["forward"], stages["uplink"], strict=True):
        computed += forward
        sent = max(sent, computed) + uplink
        found.append(sent + stages["latency"][0])
    return found


def end_of(stages: Stages, start: float, answered: Sequence[float]) -> float:
    """When the device has updated."""
    sent, now = start, start + sum(stages["forward"])
    for answer, downlink, backward in zip(answered, stages["downlink"], stages["backward"], strict=True):
        sent = max(sent, answer) + downlink
        now = max(now, sent + stages["latency"][1]) + backward
    return now + stages["update"][0]


def share_cores(devices: Sequence[Sequence[Stages]], cores: float) -> tuple[list[float], float, float]:
    """Every micro-batch that is being computed gets the same share of the cores, and one core at most.

    Returns:
        When each device has done its iterations, seconds in which the server computed, and when it was done.
    """
    all_of_them, now, busy = [_Device(own) for own in devices], 0.0, 0.0
    for device in all_of_them:
        device.send()
    while True:
        computing = [device for device in all_of_them if device.left is not None]
        rate = min(1.0, cores / len(computing)) if computing else 1.0
        events = [now + device.left / rate for device in computing if device.left is not None]
        events += [
            max(now, device.free, device.arrivals[len(device.answered)])
            for device in all_of_them
            if device.left is None and not device.ended
        ]
        if not events:
            return [device.start for device in all_of_them], busy, now
        then = min(events)
        busy += (then - now) * bool(computing)
        for device in computing:
            assert device.left is not None
            device.left -= (then - now) * rate
        now = then
        _end_and_begin(all_of_them, now)


def _end_and_begin(devices: Sequence[_Device], now: float) -> None:
    for device in devices:
        if device.left is not None and device.left <= 1e-12:
            device.left = None
            if device.free == math.inf:  # that was an update
                device.free = now
                continue
            stages = device.stages
            device.answered.append(now)
            if len(device.answered) == len(device.arrivals):
                device.come_back()
                if stages["server_update"][0]:
                    device.left, device.free = stages["server_update"][0], math.inf
                continue
    for device in devices:
        if device.left is None and not device.ended:
            n = len(device.answered)
            if max(device.arrivals[n], device.free) <= now:
                device.left = device.stages["server"][n]


def in_rotation(devices: Sequence[Sequence[Stages]]) -> list[float]:
    """One half serves iteration 1 of every device, then iteration 2, and so on, one job at a time."""
    starts, free = [0.0] * len(devices), 0.0
    for number in range(max(map(len, devices))):
        for index, own in enumerate(devices):
            if number >= len(own):
                continue
            answered = []
            for arrival, seconds in zip(
                sent_by(own[number], starts[index]), own[number]["server"], strict=True
            ):
                free = max(free, arrival) + seconds
                answered.append(free)
            free += own[number]["server_update"][0]
            starts[index] = end_of(own[number], starts[index], answered)
    return starts


def together(devices: Sequence[Sequence[Stages]], merged_s: Callable[[int], float]) -> list[float]:
    """All n-th micro-batches are one batch, which is computed when the last of them has arrived."""
    starts, free = [0.0] * len(devices), 0.0
    for number in range(max(map(len, devices))):
        there = [index for index, own in enumerate(devices) if number < len(own)]
        arrivals = {index: sent_by(devices[index][number], starts[index]) for index in there}
        answered: dict[int, list[float]] = {index: [] for index in there}
        for n in range(max(map(len, arrivals.values()))):
            these = [index for index in there if n < len(arrivals[index])]
            samples = sum(devices[index][number]["samples"][n] for index in these)
            free = max([free, *(arrivals[index][n] for index in these)]) + merged_s(round(samples))
            for index in these:
                answered[index].append(free)
        free += devices[there[0]][number]["server_update"][0]
        for index in there:
            starts[index] = end_of(devices[index][number], starts[index], answered[index])
    return starts
