"""Calls to objects on other ranks, right and wrong ones.

mypy has to refuse what `type: ignore` marks: a mark that is not needed is an error.
"""

from concurrent.futures import Future

from pipar_rpc.base.states import State
from pipar_rpc.base.stopping import Stop
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.node import Node
from pipar_rpc.selector.device_profiling import DeviceProfiler
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.round_report import RoundReport
from pipar_rpc.transport.remote_object import Remote, create_remote


class Unclosed:
    def __init__(self, node: Node, stop: Stop) -> None:
        pass


def call(remote: Remote[Device], state: State) -> None:
    trained: Future[RoundReport] = remote.call(Device.train, 1, 0, 2, deadline_s=30.0)
    remote.call(Device.load, state)
    remote.call(Device.train, "1", 0, 2)  # type: ignore[arg-type]
    remote.call(Device.train, 1, 0)  # type: ignore[call-arg]
    remote.call(Device.train, 1, 0, 2, 30.0, 4)  # type: ignore[call-arg]
    remote.call(Device.load, trained)  # type: ignore[arg-type]
    remote.call(DeviceProfiler.num_samples)  # type: ignore[arg-type]
    remote.call("upload")  # type: ignore[arg-type]
    late: Future[State] = remote.call(Device.train, 1, 0, 2)  # type: ignore[arg-type]
    late.cancel()


def ask(handle: DeviceHandle, membership: Membership) -> None:
    states: dict[DeviceHandle, State] = membership.ask(Device.state)
    membership.collect({handle: handle.call(Device.upload)}, Device.upload)[handle].keys()
    states[handle] = membership.ask(Device.spans)[handle]  # type: ignore[assignment]
    membership.ask(Device.record)  # type: ignore[call-arg]
    membership.ask(Device.record, "yes")  # type: ignore[arg-type]
    membership.collect({handle: handle.call(Device.clock)}, Device.clock)[handle].keys()  # type: ignore[attr-defined]


def put(job: DeviceJob) -> None:
    profiler: Remote[DeviceProfiler] = create_remote("device1", DeviceProfiler, job)
    profiler.call(DeviceProfiler.unit_times, 8, runs=1, num_units=5)
    create_remote("device1", DeviceProfiler, "job")  # type: ignore[arg-type]
    create_remote("device1", DeviceProfiler)  # type: ignore[call-arg]
    create_remote("device1", Unclosed)  # type: ignore[type-var]
