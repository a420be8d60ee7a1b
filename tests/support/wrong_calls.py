"""Calls to objects on other ranks, right and wrong ones.

mypy has to refuse what `type: ignore` marks: a mark that is not needed is an error.
"""

from concurrent.futures import Future

from pipar_rpc.base.states import State
from pipar_rpc.base.stopping import Stop
from pipar_rpc.coordination.device_handle import Peer
from pipar_rpc.coordination.membership import Roster
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.node import Node
from pipar_rpc.selector.device_survey import Scout
from pipar_rpc.training.device import Device
from pipar_rpc.training.round_report import RoundReport
from pipar_rpc.transport.remote_object import Remote, place


class Unclosed:
    def __init__(self, node: Node, stop: Stop) -> None:
        pass


def call(remote: Remote[Device], state: State) -> None:
    trained: Future[RoundReport] = remote.call(Device.train, 1, 0, 2, patience_s=30.0)
    remote.call(Device.load, state)
    remote.call(Device.train, "1", 0, 2)  # type: ignore[arg-type]
    remote.call(Device.train, 1, 0)  # type: ignore[call-arg]
    remote.call(Device.train, 1, 0, 2, 30.0, 4)  # type: ignore[call-arg]
    remote.call(Device.load, trained)  # type: ignore[arg-type]
    remote.call(Scout.num_samples)  # type: ignore[arg-type]
    remote.call("upload")  # type: ignore[arg-type]
    late: Future[State] = remote.call(Device.train, 1, 0, 2)  # type: ignore[arg-type]
    late.cancel()


def ask(peer: Peer, roster: Roster) -> None:
    states: dict[Peer, State] = roster.ask(Device.state)
    roster.collect({peer: peer.call(Device.upload)}, Device.upload)[peer].keys()
    states[peer] = roster.ask(Device.spans)[peer]  # type: ignore[assignment]
    roster.ask(Device.record)  # type: ignore[call-arg]
    roster.ask(Device.record, "yes")  # type: ignore[arg-type]
    roster.collect({peer: peer.call(Device.clock)}, Device.clock)[peer].keys()  # type: ignore[attr-defined]


def put(job: DeviceJob) -> None:
    scout: Remote[Scout] = place("device1", Scout, job)
    scout.call(Scout.unit_times, 8, runs=1, num_units=5)
    place("device1", Scout, "job")  # type: ignore[arg-type]
    place("device1", Scout)  # type: ignore[call-arg]
    place("device1", Unclosed)  # type: ignore[type-var]
