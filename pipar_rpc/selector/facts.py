"""What a choice of P and N rests on: what units need, and how fast devices, links and server are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from pipar_rpc.testbed.unit_times import UnitTimes
from pipar_rpc.timing.stage_recurrence import Array


@dataclass(frozen=True)
class UnitSizes:
    """What one cut unit needs on the network and in memory.

    Attributes:
        activation_bytes: bytes of its output for one sample.
        state_bytes: bytes of its parameters and buffers.
        held_bytes: bytes that are kept for the backward pass of one sample.
        trained: whether it has anything to train.
        sent_bytes: bytes of its state when models are averaged, as their codec sends it; None if as it is.
        optimizer_bytes: bytes of its optimiser's state; None if as many as of its own, as with momentum.
    """

    activation_bytes: int
    state_bytes: int
    held_bytes: int
    trained: bool = True
    sent_bytes: int | None = None
    optimizer_bytes: int | None = None

    @property
    def moved_bytes(self) -> int:
        """Bytes of its optimiser's state; 0 if it is not trained."""
        return self.trained * (self.state_bytes if self.optimizer_bytes is None else self.optimizer_bytes)

    @property
    def model_bytes(self) -> int:
        """Bytes of its state when models are averaged."""
        return self.state_bytes if self.sent_bytes is None else self.sent_bytes


@dataclass(frozen=True, eq=False)
class Crossing:
    """What is known of a device's micro-batches on their way, for each unit after which the cut may be.

    Attributes:
        uplink_bytes: bytes of the activations of 0..B samples, shape [Q, B+1].
        downlink_bytes: bytes of their gradients, shape [Q, B+1].
        server: times of the server's codecs, `decode` of activations and `encode` of gradients; empty where
            everything crosses as it is.
    """

    uplink_bytes: Array
    downlink_bytes: Array
    server: Sequence[UnitTimes] = field(default=())


@dataclass(frozen=True)
class MessageCost:
    """What a micro-batch of any size takes on a device besides computing, in real seconds.

    Attributes:
        submit_s: seconds for which sending keeps the thread that computes. An emulated device's clock goes on
            meanwhile: only computing is stretched.
        answer_s: seconds that the answer to a single micro-batch takes beyond transfers, latency and the
            server's work. It holds nothing up but who waits for it.
        cpu_s: CPU seconds of the device's process, all threads. On no emulated device's clock, but on the
            cores of the machine on which it really runs.
        beside_server: whether that is the server's machine.
    """

    submit_s: float = 0.0
    answer_s: float = 0.0
    cpu_s: float = 0.0
    beside_server: bool = False

    def scaled(self, factor: float) -> "MessageCost":
        """The same in a time in which a second is `factor` seconds."""
        times = {name: getattr(self, name) * factor for name in ("submit_s", "answer_s", "cpu_s")}
        return replace(self, **times)


@dataclass(frozen=True)
class DeviceFacts:
    """What the choice for one device rests on.

    Attributes:
        units: times of all Q units on the device.
        uplink_mbps, downlink_mbps: Mbit/s (10^6 bit/s), infinite for no limit.
        uplink_latency_s, downlink_latency_s: delay of a message, without its transfer.
        batch_size: B.
        smallest: samples that a micro-batch has at least.
        iterations: between two aggregations; infinite if nothing is aggregated.
        memory_bytes: bytes for weights, gradients, optimiser's state and activations; infinite for no limit.
        crossing: bytes of micro-batches on their way, and times of the server's codecs; None where all
            crosses as it is.
        num_samples: samples of an epoch, whose last mini-batch may be smaller; infinite if that is no matter.
        tail_units: T, number of last units that stay on the device with the labels; 0 if the labels cross.
        message: what a micro-batch takes here besides computing.
    """

    units: Sequence[UnitTimes]
    uplink_mbps: float
    downlink_mbps: float
    uplink_latency_s: float
    downlink_latency_s: float
    batch_size: int
    smallest: int
    iterations: float
    memory_bytes: float = math.inf
    num_samples: float = math.inf
    crossing: Crossing | None = None
    tail_units: int = 0
    message: MessageCost = MessageCost()

    def scaled(self, factor: float) -> "DeviceFacts":
        """The same device in a time in which a second is `factor` seconds: `testbed.time_scale`, say."""
        crossing = self.crossing
        if crossing is not None:
            crossing = replace(crossing, server=[unit.scaled(factor) for unit in crossing.server])
        return replace(
            self,
            units=[unit.scaled(factor) for unit in self.units],
            uplink_mbps=self.uplink_mbps / factor,
            downlink_mbps=self.downlink_mbps / factor,
            uplink_latency_s=self.uplink_latency_s * factor,
            downlink_latency_s=self.downlink_latency_s * factor,
            crossing=crossing,
            message=self.message.scaled(factor),
        )


@dataclass(frozen=True)
class ServerFacts:
    """What is known of the server.

    Attributes:
        units: times of all Q units, of a server half that has the server to itself.
        halves_at_once: number of server halves that compute as fast as one alone; more share. By
            the micro-batch's size: with small ones most of the time is Python's, one thread at a time.
        message_s: seconds that a micro-batch takes besides computing: RPC, threads, Python.
        shared_message_s: the same for each half that computes; their sum counts, if it is larger.
        message_cpu_s: CPU seconds of the server's process for a micro-batch besides computing, all threads.
        cores: number of the server's cores; infinite if they are not what computes.
        devices_here: number of devices that share these cores; they are taken to be all alike.
    """

    units: Sequence[UnitTimes]
    halves_at_once: Mapping[int, float]
    message_s: float = 0.0
    shared_message_s: float = 0.0
    message_cpu_s: float = 0.0
    cores: float = math.inf
    devices_here: int = 0

    def handling_s(self, halves: int) -> float:
        """Seconds that a micro-batch takes besides computing while `halves` halves are served."""
        return max(self.message_s, halves * self.shared_message_s)

    def scaled(self, factor: float) -> "ServerFacts":
        """The same server in a time in which a second is `factor` seconds."""
        return replace(
            self,
            units=[unit.scaled(factor) for unit in self.units],
            message_s=self.message_s * factor,
            shared_message_s=self.shared_message_s * factor,
            message_cpu_s=self.message_cpu_s * factor,
        )

    def slowdown(self, halves: int, most_samples: int) -> Array:
        """How many times longer a half takes for 0, 1, ... samples while `halves` compute."""
        sizes = sorted(self.halves_at_once)
        together = np.interp(range(most_samples + 1), sizes, [self.halves_at_once[size] for size in sizes])
        return np.maximum(1.0, halves / together)


@dataclass(frozen=True)
class Facts:
    """What a choice rests on."""

    devices: Sequence[DeviceFacts]
    server: ServerFacts
    sizes: Sequence[UnitSizes]

    def scaled(self, factor: float) -> "Facts":
        """The same in a time in which a second is `factor` seconds."""
        devices = [device.scaled(factor) for device in self.devices]
        return replace(self, devices=devices, server=self.server.scaled(factor))


def needed_bytes(sizes: Sequence[UnitSizes], batch_size: int, tail_units: int = 0) -> list[int]:
    """For each split point: weights, gradients and optimiser's state; what all N forward passes keep.

    Of the last units too, if there are any on the device; for N = 1 these keep as much as all N others.
    """
    weights = [(1 + unit.trained) * unit.state_bytes + unit.moved_bytes for unit in sizes]
    each = [own + batch_size * unit.held_bytes for own, unit in zip(weights, sizes, strict=True)]
    tail = sum(each[len(each) - tail_units :])
    *cut, whole = accumulate(each)
    return [own + tail for own in cut] + [whole]


def move_seconds(sizes: Sequence[UnitSizes], device: DeviceFacts, before: int, after: int) -> float:
    """Seconds for layers to move when the split point changes.

    Weights and the optimiser's state go down to the device; only the latter goes up, for the server knows
    the average.
    """
    last = len(sizes) - device.tail_units  # those behind it are on the device in any case
    moving = sizes[min(before, after) : min(last, max(before, after))]
    weights = sum(unit.state_bytes for unit in moving) * 8e-6
    state = sum(unit.moved_bytes for unit in moving) * 8e-6
    return (weights + state) / device.downlink_mbps if after > before else state / device.uplink_mbps


def fitting(
    sizes: Sequence[UnitSizes], batch_size: int, memory_bytes: float, tail_units: int = 0
) -> list[bool]:
    """For each split point whether it is one and fits into a device's memory."""
    needed, last = needed_bytes(sizes, batch_size, tail_units), len(sizes) - tail_units
    return [
        own <= memory_bytes and (point <= last or point == len(sizes))
        for point, own in enumerate(needed, start=1)
    ]
