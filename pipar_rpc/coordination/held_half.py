"""A device's port and server half on a server rank other than 0, which uses them from afar.

`far_half.py` is the other end. A device whose half is here sends its micro-batches here: rank 0 sees none.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from pipar_rpc.base.errors import PeerError, UserError
from pipar_rpc.base.memory import reset_peak_rss
from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.states import State, is_finite
from pipar_rpc.base.stopping import Stop
from pipar_rpc.coordination.average_parts import PartOfAverage
from pipar_rpc.coordination.build import build_server_half, build_server_layers, recut_server_half
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.node import Node
from pipar_rpc.privacy.gradients import Clipped
from pipar_rpc.timing.timeline import Timeline, pack
from pipar_rpc.timing.traffic import NotedMessage
from pipar_rpc.training.server_half import ServerHalf
from pipar_rpc.transport.port_reference import PortReference
from pipar_rpc.transport.server_port import Port


class Seen(NamedTuple):
    """What rank 0 looks at while a device trains.

    Attributes:
        clock: `time.monotonic()` here.
        silent_s: seconds since the device's last sign of life; 0 while it waits for the server to compute.
        iteration: number of iterations of the epoch that the device has reported as done.
        loss: mean loss of the last of them.
        slowest_s: longest time of an iteration so far, in seconds; None before the first one.
    """

    clock: float
    silent_s: float
    iteration: int
    loss: float
    slowest_s: float | None


class Settled(NamedTuple):
    """What rank 0 gets once all that a device has sent in a round has been computed.

    Attributes:
        error: first error of the server half, if there was any.
        seen: see `Seen`.
        spans: spans of the server half and of the downlink since the last time, packed; by this clock.
        clipped: gradients of single samples that were clipped since the last time.
        sent_bytes: bytes that went down from here, in all rounds.
    """

    error: Exception | None
    seen: Seen
    spans: Tensor
    clipped: Clipped
    sent_bytes: int


_held: dict[str, "HeldHalf"] = {}  # what this rank holds, by the devices' names


class HeldHalf:
    """One device's port and server half, for the thread that runs what rank 0 asks.

    Args:
        port: port of the device.
        half: server half of the device.
        timeline: record of the spans of both.
    """

    def __init__(self, port: Port, half: ServerHalf, timeline: Timeline) -> None:
        self._port, self._half, self._timeline = port, half, timeline
        self._reference = port.reference()  # the port lives as long as this
        _held[port.name] = self

    def reference(self) -> PortReference:
        """Returns the reference with which the device addresses its port."""
        return self._reference

    def of_port(self, method: str, *args: Any) -> Any:
        """Runs a method of the port."""
        return getattr(self._port, method)(*args)

    def set_of_port(self, name: str, value: Any) -> None:
        """Sets an attribute of the port."""
        setattr(self._port, name, value)

    def of_downlink(self, method: str, *args: Any) -> Any:
        """Runs a method of the emulated downlink."""
        return getattr(self._port.downlink, method)(*args)

    def of_half(self, method: str, *args: Any) -> Any:
        """Runs a method of the server half."""
        return getattr(self._half, method)(*args)

    def is_finite(self) -> bool:
        """Whether no number of the half is infinite or NaN."""
        return is_finite(self._half.state())

    def error(self) -> Exception | None:
        """Returns the first error of the server half, if there was any: an answer, as asking did not fail."""
        try:
            self._port.check()
        except (PeerError, UserError) as error:
            return error
        return None

    def settle(self) -> Settled:
        """Waits until all that was delivered has been computed, updates included."""
        self._port.become_idle()
        spans, clipped = pack(self._timeline.drain()), self._half.clipped()
        return Settled(self.error(), _look(self._port), spans, clipped, self._port.downlink.num_bytes)

    def recut(self, job: DeviceJob, state: State, optimizer_state: State) -> None:
        """Gives the half other layers, with the weights in `state`; see `recut_server_half`."""
        recut_server_half(self._half, job, build_server_layers(job, state), optimizer_state)

    def part_of_average(self, shares: Mapping[str, tuple[int, float]], count: int) -> "PartOfAverage":
        """Sums what the halves on this rank contribute to the average of all devices' networks.

        Args:
            shares: number of each device here among those that are averaged, from 0, and its share, by name.
            count: number of devices that are averaged.
        """
        states = {number: _held[name]._half.state() for name, (number, _) in shares.items()}
        return PartOfAverage.of(states, dict(shares.values()), count)

    def messages(self) -> tuple[list[NotedMessage], list[NotedMessage]]:
        """Hands over the messages that came up and went down since the last call, by this clock."""
        return self._port.traffic.up.drain(), self._port.traffic.down.drain()

    def close(self) -> None:
        """Stops, and releases the threads once nothing is being computed."""
        _held.pop(self._port.name, None)
        self._port.close()


def hold_half(node: Node, stop: Stop, job: DeviceJob, state: State, optimizer_state: State) -> HeldHalf:
    """Creates a device's port and server half on this rank.

    Args:
        node: this machine.
        stop: request to end, which is the port's affair.
        job: job of the device.
        state: parameters and buffers of the server half; empty if it rests at first.
        optimizer_state: state of its optimiser by parameters' names; empty at the beginning of training.
    """
    if not _held:
        reset_peak_rss()  # the halves of an earlier job are garbage that nobody would look for
    timeline, stop = Timeline(), Stop()
    half = build_server_half(build_server_layers(job, state), job, node, timeline, optimizer_state)
    if job.rests:
        half.rest()
    downlink = job.downlink.open(generator(job.seed, "downlink", job.rank), stop.sleep)
    return HeldHalf(Port(job.name, half.process, downlink, timeline, stop=stop), half, timeline)


def look(name: str) -> Seen | None:
    """RPC handler: looks at a device's port, whatever its half is doing; None if it is closed."""
    held = _held.get(name)
    if held is None:
        return None
    held._port.remind()
    return _look(held._port)


def _look(port: Port) -> Seen:
    return Seen(time.monotonic(), port.silent_s, port.iteration, port.loss, port.slowest_s)
