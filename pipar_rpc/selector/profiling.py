"""What the server finds out before the training: how fast devices and links are.

Everything is measured on networks of their own: weights, optimisers, batch statistics and random numbers of
the job stay as they are.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import torch

from pipar_rpc.coordination.membership import wait_for
from pipar_rpc.plan.deadlines import Deadlines
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.selector.device_profiling import DeviceProfiler
from pipar_rpc.selector.facts import Crossing, DeviceFacts, ServerFacts, UnitSizes, fitting
from pipar_rpc.selector.server_profiling import computing_half
from pipar_rpc.testbed.device_speed import MachineSpeed, calibrate_all
from pipar_rpc.testbed.link import Link
from pipar_rpc.testbed.link_rates import LinkRates, link_rates, measure_rates
from pipar_rpc.testbed.unit_timer import sizes_to_time
from pipar_rpc.testbed.unit_times import UnitTimes
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.timing.traffic import ping
from pipar_rpc.transport.closing import close_all
from pipar_rpc.transport.remote_object import Remote, create_remote
from pipar_rpc.transport.server_port import Port

P = ParamSpec("P")
T = TypeVar("T")

MESSAGES, TIMES = 20, 3  # micro-batches in flight, and how often


@dataclass(frozen=True)
class _Asked:
    """A device that is asked."""

    job: DeviceJob
    remote: Remote[DeviceProfiler]

    def call(
        self,
        to_do: str,
        method: Callable[Concatenate[DeviceProfiler, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Asks and waits for the answer."""
        return self.wait(self.remote.call(method, *args, **kwargs), to_do)

    def wait(
        self, answer: Future[T], to_do: str, times: int = 1, silent_s: Callable[[], float] | None = None
    ) -> T:
        """Waits `times` as long as a device may be silent; see `wait_for`."""
        return wait_for(self.remote, answer, self.job.timeout_s * times, to_do, silent_s)


def profile_devices(
    jobs: Sequence[DeviceJob],
    sizes: Sequence[UnitSizes],
    runs: int,
    every: int,
    elapsed_s: float,
    server: ServerFacts,
    here: torch.device,
    crossing: Sequence[Crossing],
) -> tuple[list[DeviceFacts], ServerFacts]:
    """Asks all devices, which hold nothing yet; also finds out what their micro-batches cost the server.

    Args:
        jobs: jobs of the devices, with split point Q.
        sizes: sizes of each unit.
        runs: runs of the whole network for each batch size, where the device's speed is not emulated.
        every: iterations between two aggregations; -1: one epoch, 0: never.
        elapsed_s: real seconds at which bandwidth traces go on.
        server: facts about the server.
        here: torch device on which server halves compute.
        crossing: bytes that cross and times of codecs, for each device.

    Raises:
        UserError: a device lacks its data.
        PeerError: a device failed or did not answer in time.
    """
    with _profilers(jobs) as devices:
        samples = _ask_all(devices, "count its samples", DeviceProfiler.num_samples)
        free = _ask_all(devices, "tell its memory", DeviceProfiler.free_bytes)
        free = [_without_images(own, job, count) for own, job, count in zip(free, jobs, samples, strict=True)]
        held = [_most_held(sizes, job, own) for job, own in zip(jobs, free, strict=True)]
        times = _unit_times(devices, runs, held)
        links = [_links(device, elapsed_s) for device in devices]
        server = _with_messages(server, devices, here)
    facts = [
        DeviceFacts(
            units=times[index],
            **links[index]._asdict(),
            batch_size=job.batch_size,
            smallest=job.smallest,
            iterations=_iterations(samples[index], job.batch_size, every),
            memory_bytes=free[index],
            num_samples=math.inf if job.privacy.poisson else samples[index],
            crossing=crossing[index],
            tail_units=job.labels_stay,
        )
        for index, job in enumerate(jobs)
    ]
    return facts, server


def count_samples(jobs: Sequence[DeviceJob]) -> list[int]:
    """Asks all devices how many samples they will train on; raises as `profile_devices` does."""
    with _profilers(jobs) as devices:
        return _ask_all(devices, "count its samples", DeviceProfiler.num_samples)


@contextmanager
def _profilers(jobs: Sequence[DeviceJob]) -> Iterator[list[_Asked]]:
    devices: list[_Asked] = []
    try:
        for job in jobs:
            devices.append(_Asked(job, create_remote(job.name, DeviceProfiler, job)))
        yield devices
    finally:
        close_all({own.remote: Deadlines(own.job.deadlines, own.job.emulated_s) for own in devices})


def _ask_all(devices: Sequence[_Asked], to_do: str, method: Callable[[DeviceProfiler], T]) -> list[T]:
    """Asks all at the same time."""
    answers = [device.remote.call(method) for device in devices]
    return [device.wait(answer, to_do) for device, answer in zip(devices, answers, strict=True)]


def _iterations(num_samples: int, batch_size: int, every: int) -> float:
    epoch = math.ceil(num_samples / batch_size)
    return {-1: epoch, 0: math.inf}.get(every, min(every, epoch))


def _without_images(free_bytes: float, job: DeviceJob, num_samples: int) -> float:
    """What is left of the memory once the training images are in it."""
    return free_bytes - job.data.memory_bytes(num_samples)


def _unit_times(devices: Sequence[_Asked], runs: int, held: Sequence[int]) -> list[list[UnitTimes]]:
    """Emulated devices: what they will take. Others are measured, all at the same time.

    Only as many units are measured as a device can hold, and the last ones if they are on it; the others
    cannot be chosen and count as nothing.
    """
    speeds = [device.job.speed for device in devices]

    def ask(index: int, known: Mapping[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        return devices[index].call("measure its machine's speed", DeviceProfiler.calibrate, known)

    found: dict[int, list[UnitTimes]] = {}
    for index, (speed, machine) in enumerate(zip(speeds, calibrate_all(speeds, ask), strict=True)):
        units = speed.unit_times(machine and machine[1])
        if units is not None:
            found[index] = units
    native = [index for index in range(len(devices)) if index not in found]
    measured = _measured([devices[i] for i in native], runs, [held[i] for i in native])
    found |= zip(native, measured, strict=True)
    return [found[index] for index in range(len(devices))]


def _measured(devices: Sequence[_Asked], runs: int, held: Sequence[int]) -> list[list[UnitTimes]]:
    """A call for each size, so that a slow device is heard of now and then."""
    found: list[list[UnitTimes]] = [[] for _ in devices]
    sizes = [sizes_to_time(device.job.batch_size, device.job.smallest) for device in devices]
    for step in range(max(map(len, sizes), default=0)):
        taking_part = [index for index in range(len(devices)) if step < len(sizes[index])]
        answers = [
            devices[i].remote.call(DeviceProfiler.unit_times, sizes[i][step], runs, held[i])
            for i in taking_part
        ]
        for index, answer in zip(taking_part, answers, strict=True):
            units = devices[index].wait(answer, "time its network", 1 + runs)
            found[index] = [a.joined(b) for a, b in zip(found[index] or units, units, strict=True)]
    return [_filled(units, device.job) for device, units in zip(devices, found, strict=True)]


def _most_held(sizes: Sequence[UnitSizes], job: DeviceJob, free_bytes: float) -> int:
    """The largest split point that fits into a device; 1 if none does, which the choice will find."""
    fits = fitting(sizes, job.batch_size, free_bytes, job.labels_stay)
    return max((point for point, own in enumerate(fits, start=1) if own), default=1)


def _filled(units: list[UnitTimes], job: DeviceJob) -> list[UnitTimes]:
    """With nothing for the units that the device cannot hold."""
    nothing = {job.batch_size: 0.0}
    missing = job.num_units - len(units)
    first = len(units) - (job.labels_stay if missing else 0)
    return units[:first] + [UnitTimes("", nothing, nothing, 0.0)] * missing + units[first:]


def _links(device: _Asked, elapsed_s: float) -> LinkRates:
    def ask(method: Callable[Concatenate[DeviceProfiler, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return device.call("answer a timed transfer", method, *args, **kwargs)

    up, down = device.job.uplink, device.job.downlink
    known = up.rate.after(elapsed_s), down.rate.after(elapsed_s)
    emulated = [mbps if link.rate.limited else None for link, mbps in zip((up, down), known, strict=True)]
    real = None if all(emulated) else measure_rates(ask, ping(partial(ask, DeviceProfiler.clock)), *emulated)
    return link_rates(up, down, known, real)


def _with_messages(server: ServerFacts, devices: Sequence[_Asked], here: torch.device) -> ServerFacts:
    """With `message_s`, as the first device finds it, and `shared_message_s`, a median over the devices.

    Measured with the smallest micro-batches, of a few bytes and for which the server computes the whole
    network: many in flight, less one, less computing alone. What its threads take from each other is in it.
    """
    spec, size, together = devices[0].job.model, min(server.units[0].forward), len(devices)
    private = any(device.job.speed.private for device in devices)
    computing_s = sum(unit.forward[size] + unit.backward[size] for unit in server.units)
    with ExitStack() as stack:
        # Random layers draw from torch's own generator, in the ports' threads.
        stack.enter_context(torch.random.fork_rng(devices=[here] if here.type == "cuda" else []))
        asked = []
        for device in devices:
            port = Port(device.job.name, computing_half(spec, size, here, private), Link(), Timeline())
            stack.callback(port.close)
            asked.append((device, port))

        def wait(count: int, some: int) -> list[float]:
            """Until the first `some` devices have exchanged `count` micro-batches at the same time."""
            calls = [
                device.remote.call(DeviceProfiler.exchange, port.reference(), count, TIMES)
                for device, port in asked[:some]
            ]
            return [
                device.wait(call, "exchange micro-batches", silent_s=partial(getattr, port, "silent_s"))
                for (device, port), call in zip(asked, calls, strict=False)
            ]

        def seconds(some: int) -> float:
            """For each micro-batch besides computing, which takes longer if there are many halves."""
            each = [
                (b - a) / (MESSAGES - 1) for a, b in zip(wait(1, some), wait(MESSAGES, some), strict=True)
            ]
            return max(0.0, statistics.median(each) - computing_s * float(server.slowdown(some, size)[-1]))

        alone = seconds(1)
        shared = seconds(together) / together if together > 1 else alone
    return replace(server, message_s=alone, shared_message_s=shared)
