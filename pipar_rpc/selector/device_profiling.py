"""What a device finds out about itself before the training, so that P and N can be chosen."""

import itertools
import math
import os
import time
from collections.abc import Mapping
from typing import NamedTuple

import torch

from pipar_rpc.base.memory import reset_peak_rss, rss_mb
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.stopping import Stop
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.data import open_source, partition
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.node import Node
from pipar_rpc.testbed.device_speed import MachineSpeed, calibrate, host_name
from pipar_rpc.testbed.link import Link
from pipar_rpc.testbed.link_rates import LinkTest
from pipar_rpc.testbed.steadiness import Steadiness, Timed
from pipar_rpc.testbed.unit_timer import LIMIT_S, Coder, time_units
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.timing.traffic import Traffic
from pipar_rpc.transport.activation_sender import RpcExchange
from pipar_rpc.transport.port_reference import PortReference


class Exchanged(NamedTuple):
    """What an exchange of micro-batches took.

    Attributes:
        seconds: wall seconds until all had come back; the least.
        submit_s: seconds for which a micro-batch kept the thread that sent it; mean.
        cpu_s: CPU seconds of the device's process for each micro-batch; mean.
    """

    seconds: float
    submit_s: float
    cpu_s: float


class DeviceProfiler(LinkTest):
    """Answers the server's questions; trains nothing but networks of its own.

    Args:
        node: the device's machine.
        stop: request to end measurements.
        job: job of the device, with split point Q.
    """

    def __init__(self, node: Node, stop: Stop, job: DeviceJob) -> None:
        self._node, self._stop, self._job = node.of_device(job.rank), stop, job

    def num_samples(self) -> int:
        """Samples that the device will train on; raises UserError if its data is missing."""
        job = self._job
        labels = open_source(job.data, self._node.data_root, self._node.download).labels("train")
        return len(partition(labels, job.data, job.num_devices)[job.rank - 1])

    def calibrate(self, known: Mapping[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        """This machine's name and speed, for a device whose speed is derived from it."""
        return calibrate(self._job.speed, known, self._node.device)

    def unit_times(self, batch_size: int, runs: int, num_units: int, together: int = 1) -> Timed:
        """Wall times of the first `num_units` units on this machine, and of the last if they stay on it.

        Where more devices are timed at a time than this machine has cores, they wait for each other, as they
        will in training: that is no disturbance, and nothing is said of the runs.

        Args:
            batch_size: samples of a run.
            runs: number of runs that count.
            num_units: number of first units.
            together: number of devices that are timed at this time, on this machine or others.
        """
        crowded = together > (os.cpu_count() or 1)
        timed = self._unit_times(batch_size, runs, num_units, 0.0 if crowded else LIMIT_S)
        return timed._replace(steadiness=Steadiness()) if crowded else timed

    def _unit_times(self, batch_size: int, runs: int, num_units: int, limit_s: float) -> Timed:
        spec, device = self._job.model, self._node.device
        tail_units = self._job.labels_stay if num_units < self._job.num_units else 0
        return time_units(
            *(spec, [batch_size], runs, device),
            on_run=self._stop.check,
            num_units=num_units,
            tail_units=tail_units,
            coder=Coder.of(self._job.coding, self._job.privacy),
            private=self._job.speed.private,
            limit_s=limit_s,
        )

    def free_bytes(self) -> float:
        """Memory that is left for training, for each device here; infinite without `node.memory_limit`."""
        reset_peak_rss()  # what earlier jobs left does not count
        limit = self._node.memory_limit_mb
        return math.inf if limit is None else (limit - rss_mb()) * 1e6 / self._job.placed.devices

    def host_name(self) -> str:
        """This machine's name."""
        return host_name()

    def exchange(self, port: PortReference, first: int, count: int, times: int) -> Exchanged:
        """Exchanges micro-batches of a few bytes.

        Args:
            port: reference to a port on the server.
            first: number of micro-batches that the port has received before.
            count: number of micro-batches in flight.
            times: number of exchanges that count, after a first one.
        """
        numbers = itertools.count(first)
        exchange = RpcExchange(port, Link(), Timeline(), self._stop, numbers, Traffic())
        parts = [Part(1, 0, index, count, 1 / count) for index in range(1, count + 1)]
        labels, found, coding = torch.zeros(1, dtype=torch.int64), [], Coding(CodingSpec())
        activation = coding.encode_activation(parts[0], torch.zeros(1, requires_grad=True))
        submit_s = cpu_s = 0.0

        try:
            for number in range(1 + times):
                if number == 1:  # threads have started
                    submit_s, cpu_s = 0.0, time.process_time()
                began = time.monotonic()
                answers = [exchange.submit(part, activation, labels) for part in parts]
                submit_s += time.monotonic() - began
                for answer in answers:
                    self._stop.result(answer)
                found.append(time.monotonic() - began)
            cpu_s = time.process_time() - cpu_s
        finally:
            exchange.close()
        return Exchanged(min(found[1:]), submit_s / (count * times), cpu_s / (count * times))

    def close(self) -> None:
        """Nothing is held."""
