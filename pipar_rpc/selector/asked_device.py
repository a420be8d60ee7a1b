"""Devices that answer questions before the training, and the waiting for their answers."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from pipar_rpc.coordination.membership import wait_for
from pipar_rpc.plan.deadlines import Deadlines
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.selector.device_profiling import DeviceProfiler
from pipar_rpc.transport.closing import close_all
from pipar_rpc.transport.remote_object import Remote, create_remote
from pipar_rpc.transport.workers import Place

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class AskedDevice:
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


@contextmanager
def profilers(jobs: Sequence[DeviceJob]) -> Iterator[list[AskedDevice]]:
    """Places one on each device for as long as the block lasts."""
    devices: list[AskedDevice] = []
    try:
        for job in jobs:
            place = Place.on_rank(job.name, job.placed.rank, job.placed.devices)
            devices.append(AskedDevice(job, create_remote(place, DeviceProfiler, job)))
        yield devices
    finally:
        close_all({own.remote: Deadlines(own.job.deadlines, own.job.emulated_s) for own in devices})


def ask_all(devices: Sequence[AskedDevice], to_do: str, method: Callable[[DeviceProfiler], T]) -> list[T]:
    """Asks all at the same time."""
    answers = [device.remote.call(method) for device in devices]
    return [device.wait(answer, to_do) for device, answer in zip(devices, answers, strict=True)]


def first_of_each_process(devices: Sequence[AskedDevice]) -> list[AskedDevice]:
    """The first device of each process: what is measured on it holds for the others there."""
    return [device for device in devices if device.job.placed.first]


def ask_each_process(
    devices: Sequence[AskedDevice], to_do: str, method: Callable[[DeviceProfiler], T]
) -> list[T]:
    """Asks the first device of each process; returns an answer for each device."""
    first = first_of_each_process(devices)
    ranks = [device.job.placed.rank for device in first]
    found = dict(zip(ranks, ask_all(first, to_do, method), strict=True))
    return [found[device.job.placed.rank] for device in devices]
