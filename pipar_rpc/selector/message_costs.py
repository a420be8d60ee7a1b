"""What a micro-batch costs besides computing, measured over the way that it takes in the training."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from pipar_rpc.selector.asked_device import AskedDevice, ask_each_process, first_of_each_process
from pipar_rpc.selector.device_profiling import DeviceProfiler, Exchanged
from pipar_rpc.selector.facts import MessageCost, ServerFacts
from pipar_rpc.selector.server_profiling import computing_half, empty_half
from pipar_rpc.testbed.device_speed import host_name
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.exchange import Process
from pipar_rpc.transport.server_port import Port

MESSAGES, TIMES = 20, 3  # micro-batches in flight, and how often
SINGLE = 20  # micro-batches of which each waits for the one before


@dataclass
class _Connection:
    """A device, and its port here.

    Attributes:
        device: the device.
        port: port with a server half of its own.
        sent: number of micro-batches that the port has received.
    """

    device: AskedDevice
    port: Port
    sent: int = 0

    def exchange(self, count: int, times: int) -> Future[Exchanged]:
        """Asks the device to exchange `count` micro-batches at once, `times` times after a first one."""
        first, self.sent = self.sent, self.sent + (1 + times) * count
        return self.device.remote.call(DeviceProfiler.exchange, self.port.reference(), first, count, times)

    def wait(self, call: Future[Exchanged]) -> Exchanged:
        """Waits for what it took."""
        return self.device.wait(call, "exchange micro-batches", silent_s=lambda: self.port.silent_s)


@contextmanager
def _connected(
    devices: Sequence[AskedDevice], make_half: Callable[[], Process]
) -> Iterator[list[_Connection]]:
    """Connects each device with a server half of its own, for as long as the block lasts."""
    with ExitStack() as stack:
        found = []
        for device in devices:
            port = Port(device.job.name, make_half(), Link(), Timeline())
            stack.callback(port.close)
            found.append(_Connection(device, port))
        yield found


def _exchange(connected: Sequence[_Connection], count: int, times: int) -> list[Exchanged]:
    """Has devices exchange `count` micro-batches at the same time."""
    calls = [own.exchange(count, times) for own in connected]
    return [own.wait(call) for own, call in zip(connected, calls, strict=True)]


def message_costs(
    server: ServerFacts, devices: Sequence[AskedDevice], here: torch.device
) -> tuple[ServerFacts, list[MessageCost]]:
    """What micro-batches take of the processes' cores, while all of these exchange them at the same time.

    One device of each process exchanges them, and stands for the others there.

    Once many are in flight, and once each waits for the one before, as behind a slow link, where threads are
    woken for each of them: what is more counts. Devices of one machine get its median, for they are alike.

    Args:
        server: facts about the server.
        devices: devices that are asked.
        here: torch device on which server halves compute.
    """
    hosts = ask_each_process(devices, "tell its machine's name", DeviceProfiler.host_name)
    first, here_name = first_of_each_process(devices), host_name()
    spent, found = list[float](), list[list[Exchanged]]()
    with _connected(first, lambda: empty_half) as connected:
        for count, times in ((MESSAGES, TIMES), (1, SINGLE)):
            began = time.process_time()
            found.append(_exchange(connected, count, times))
            total = (1 + times) * count * len(first)
            spent.append((time.process_time() - began) / total)
    each = [
        MessageCost(max(many.submit_s, one.submit_s), one.seconds, max(many.cpu_s, one.cpu_s))
        for many, one in zip(*found, strict=True)
    ]
    of_rank = {device.job.placed.rank: cost for device, cost in zip(first, each, strict=True)}
    costs = [of_rank[device.job.placed.rank] for device in devices]

    messages = []
    for host in hosts:
        same = [own for own, name in zip(costs, hosts, strict=True) if name == host]
        submit_s, answer_s, cpu_s = (
            statistics.median(values)
            for values in zip(*((own.submit_s, own.answer_s, own.cpu_s) for own in same), strict=True)
        )
        messages.append(MessageCost(submit_s, answer_s, cpu_s, host == here_name))
    cores = len(os.sched_getaffinity(0)) if here.type == "cpu" else math.inf
    known = replace(
        server, message_cpu_s=max(spent), cores=cores, devices_here=sum(host == here_name for host in hosts)
    )
    return known, messages


def with_messages(server: ServerFacts, devices: Sequence[AskedDevice], here: torch.device) -> ServerFacts:
    """With `message_s`, as the first device finds it, and `shared_message_s`, a median over the devices.

    Measured with the smallest micro-batches, of a few bytes and for which the server computes the whole
    network: many in flight, less one, less computing alone. What its threads take from each other is in it.
    """
    spec, size, together = devices[0].job.model, min(server.units[0].forward), len(devices)
    private = any(device.job.speed.private for device in devices)
    computing_s = sum(unit.forward[size] + unit.backward[size] for unit in server.units)
    # Random layers draw from torch's own generator, in the ports' threads.
    with (
        torch.random.fork_rng(devices=[here] if here.type == "cuda" else []),
        _connected(devices, lambda: computing_half(spec, size, here, private)) as connected,
    ):

        def seconds(some: int) -> float:
            """For each micro-batch besides computing, which takes longer if there are many halves."""
            one, many = (_exchange(connected[:some], count, TIMES) for count in (1, MESSAGES))
            each = [(b.seconds - a.seconds) / (MESSAGES - 1) for a, b in zip(one, many, strict=True)]
            return max(0.0, statistics.median(each) - computing_s * float(server.slowdown(some, size)[-1]))

        alone = seconds(1)
        shared = seconds(together) / together if together > 1 else alone
    return replace(server, message_s=alone, shared_message_s=shared)
