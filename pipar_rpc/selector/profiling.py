"""What the server finds out before the training: how fast devices and links are.

Everything is measured on networks of their own: weights, optimisers, batch statistics and random numbers of
the job stay as they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import torch

from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.selector.asked_device import (
    AskedDevice,
    ask_all,
    ask_each_process,
    first_of_each_process,
    profilers,
)
from pipar_rpc.selector.device_profiling import DeviceProfiler
from pipar_rpc.selector.facts import Crossing, DeviceFacts, MessageCost, ServerFacts, UnitSizes, fitting
from pipar_rpc.selector.message_costs import message_costs, with_messages
from pipar_rpc.selector.server_profiling import warn_if_disturbed
from pipar_rpc.testbed.device_speed import MachineSpeed, calibrate_all
from pipar_rpc.testbed.link_rates import LinkRates, link_rates, measure_rates
from pipar_rpc.testbed.steadiness import MOST_BLOCKS, Steadiness
from pipar_rpc.testbed.unit_timer import sizes_to_time
from pipar_rpc.testbed.unit_times import UnitTimes
from pipar_rpc.timing.traffic import ping

P = ParamSpec("P")
T = TypeVar("T")


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
    with profilers(jobs) as devices:
        samples = ask_all(devices, "count its samples", DeviceProfiler.num_samples)
        free = ask_each_process(devices, "tell its memory", DeviceProfiler.free_bytes)
        free = [_without_images(own, job, count) for own, job, count in zip(free, jobs, samples, strict=True)]
        held = [_most_held(sizes, job, own) for job, own in zip(jobs, free, strict=True)]
        times = _unit_times(devices, runs, held)
        links = _all_links(devices, elapsed_s)
        server = with_messages(server, first_of_each_process(devices), here)
        server, messages = message_costs(server, devices, here)
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
            message=_beyond(messages[index], server.message_s, job, links[index]),
        )
        for index, job in enumerate(jobs)
    ]
    return facts, server


def count_samples(jobs: Sequence[DeviceJob]) -> list[int]:
    """Asks all devices how many samples they will train on; raises as `profile_devices` does."""
    with profilers(jobs) as devices:
        return ask_all(devices, "count its samples", DeviceProfiler.num_samples)


def _beyond(message: MessageCost, handling_s: float, job: DeviceJob, link: LinkRates) -> MessageCost:
    """With what an answer takes beyond the server's work and real latency, which count by themselves."""
    latency_s = 0.0 if job.links_emulated else link.uplink_latency_s + link.downlink_latency_s
    return replace(message, answer_s=max(0.0, message.answer_s - handling_s - latency_s))


def _iterations(num_samples: int, batch_size: int, every: int) -> float:
    epoch = math.ceil(num_samples / batch_size)
    return {-1: epoch, 0: math.inf}.get(every, min(every, epoch))


def _without_images(free_bytes: float, job: DeviceJob, num_samples: int) -> float:
    """What is left of the memory once the training images are in it."""
    return free_bytes - job.data.memory_bytes(num_samples)


def _unit_times(devices: Sequence[AskedDevice], runs: int, held: Sequence[int]) -> list[list[UnitTimes]]:
    """Emulated devices: what they will take. Others are measured, all at the same time.

    Only as many units are measured as a device can hold, and the last ones if they are on it; the others
    cannot be chosen and count as nothing. Of devices in one process that are alike, one is measured.
    """
    speeds = [device.job.speed for device in devices]

    def ask(index: int, known: Mapping[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        return devices[index].call("measure its machine's speed", DeviceProfiler.calibrate, known)

    found: dict[int, list[UnitTimes]] = {}
    for index, (speed, machine) in enumerate(zip(speeds, calibrate_all(speeds, ask), strict=True)):
        units = speed.unit_times(machine and machine[1])
        if units is not None:
            found[index] = units
    every = range(len(devices))
    native = {index: _kind(devices[index].job, held[index]) for index in every if index not in found}
    first = {kind: index for index, kind in reversed(native.items())}
    measured = _measured([devices[i] for i in first.values()], runs, [held[i] for i in first.values()])
    times = dict(zip(first, measured, strict=True))
    found |= {index: times[kind] for index, kind in native.items()}
    return [found[index] for index in every]


def _kind(job: DeviceJob, held: int) -> object:
    """What decides how long a device that is not emulated takes: its process, and what it computes."""
    codecs, size = repr((job.coding, job.privacy)), (job.batch_size, job.smallest)
    return job.placed.rank, held, size, codecs, job.labels_stay


def _measured(devices: Sequence[AskedDevice], runs: int, held: Sequence[int]) -> list[list[UnitTimes]]:
    """A call for each size, so that a slow device is heard of now and then."""
    found: list[list[UnitTimes]] = [[] for _ in devices]
    steadiness = [Steadiness() for _ in devices]
    sizes = [sizes_to_time(device.job.batch_size, device.job.smallest) for device in devices]
    for step in range(max(map(len, sizes), default=0)):
        taking_part = [index for index in range(len(devices)) if step < len(sizes[index])]
        answers = [
            devices[i].remote.call(DeviceProfiler.unit_times, sizes[i][step], runs, held[i], len(devices))
            for i in taking_part
        ]
        for index, answer in zip(taking_part, answers, strict=True):
            units, steady = devices[index].wait(answer, "time its network", MOST_BLOCKS * (1 + runs))
            found[index] = [a.joined(b) for a, b in zip(found[index] or units, units, strict=True)]
            steadiness[index] = steadiness[index].joined(steady)
    for device, own in zip(devices, steadiness, strict=True):
        warn_if_disturbed(device.job.name, own)
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


def _all_links(devices: Sequence[AskedDevice], elapsed_s: float) -> list[LinkRates]:
    """Rates of each device's links; of devices that share a process, and so its line, one is measured."""
    lines = [(device.job.placed.rank, device.job.uplink, device.job.downlink) for device in devices]
    found: dict[object, LinkRates] = {}
    for device, line in zip(devices, lines, strict=True):
        if line not in found:
            found[line] = _links(device, elapsed_s)
    return [found[line] for line in lines]


def _links(device: AskedDevice, elapsed_s: float) -> LinkRates:
    def ask(method: Callable[Concatenate[DeviceProfiler, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return device.call("answer a timed transfer", method, *args, **kwargs)

    up, down = device.job.uplink, device.job.downlink
    known = up.rate.after(elapsed_s), down.rate.after(elapsed_s)
    emulated = [mbps if link.rate.limited else None for link, mbps in zip((up, down), known, strict=True)]
    real = None if all(emulated) else measure_rates(ask, ping(partial(ask, DeviceProfiler.clock)), *emulated)
    return link_rates(up, down, known, real)
