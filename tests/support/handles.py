"""Devices in this process, as the server sees them: calls run at once, and nothing is between the halves."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

from pipar_rpc.base.states import State
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.plan.deadlines import Deadlines, DeadlineSpec
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.server_half import ServerHalf


class LocalRemote:
    """Calls a device at once; keeps what it was sent."""

    lost = None

    def __init__(self, device: Device) -> None:
        self.device, self.sent = device, list[Any]()

    def call(self, method: Any, *args: Any) -> Future[Any]:
        self.sent += args
        result: Future[Any] = Future()
        result.set_result(method(self.device, *args))
        return result


def local_handle(device: Device, half: ServerHalf) -> DeviceHandle:
    port = SimpleNamespace(downlink=Link(), heard=lambda: None, slowest_s=None)
    deadlines = Deadlines(DeadlineSpec(1, 1, 1))
    remote = cast(Any, LocalRemote(device))
    return DeviceHandle("device1", remote, cast(Any, port), half, Timeline(), deadlines, True)


def states_of(handle: DeviceHandle) -> State:
    """Both halves of the network."""
    device: Device = cast(Any, handle.remote).device
    return device.state() | handle.half.state()


def idle_handle(number: int, iterations: int) -> DeviceHandle:
    """A device of which nothing is asked."""
    half = SimpleNamespace(state=dict, names=tuple)
    port = SimpleNamespace(downlink=Link(), leave=lambda reason: None)
    deadlines = Deadlines(DeadlineSpec(1, 1, 1))
    remote = cast(Any, SimpleNamespace(lost=None))
    halves = (cast(Any, port), cast(Any, half), Timeline(), deadlines, True)
    return DeviceHandle(f"device{number}", remote, *halves, iterations=iterations)
