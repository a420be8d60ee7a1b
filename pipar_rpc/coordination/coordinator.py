"""Rank 0's part: rounds of training on all devices, and the average of their networks in between."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from pipar_rpc.aggregation.fedavg import FedAvg
from pipar_rpc.aggregation.participation import Participation, Uniform
from pipar_rpc.base.cores import on_cores
from pipar_rpc.base.states import State, num_bytes
from pipar_rpc.compression.models import ExactModel, ModelCodec
from pipar_rpc.coordination.aggregation import Aggregator, average, join
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.epoch_result import EpochSums
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.merging import Merger, Uploads, leave_out_diverged
from pipar_rpc.coordination.model_transfer import ModelTransfer
from pipar_rpc.coordination.participants import Participants
from pipar_rpc.coordination.resting import Resting
from pipar_rpc.coordination.rounds import Position, Round
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.round_report import RoundReport


@dataclass(frozen=True)
class Trained:
    """The outcome of a round, once both halves of every device have done their part.

    Attributes:
        round: the round.
        reports: reports of the devices that finished the round.
        uploads: device halves on their way to the average, which takes them out; none if they are handed on,
            or never averaged.
    """

    round: Round
    reports: Mapping[DeviceHandle, RoundReport]
    uploads: Uploads


class Coordinator:
    """The steps of a training: a round on all devices, and the average of their networks.

    A device that is lost leaves the average; the others go on.

    Args:
        membership: devices that take part.
        every: number of iterations between two aggregations; -1 for one at the end of each epoch, 0 for none.
            The end of an epoch always ends a round.
        in_turn: whether devices train one after the other and hand the device half on, instead of averaging.
        keep_networks: whether to keep each device's own network, which takes memory.
        aggregator: maker of the global network, with which all devices begin; FedAvg by default.
        model_codec: codec of models that travel; by default they travel as they are.
        participation: policy that chooses the devices of a round; all by default.
    """

    def __init__(
        self,
        membership: Membership,
        every: int,
        in_turn: bool,
        keep_networks: bool = False,
        aggregator: Aggregator | None = None,
        model_codec: ModelCodec | None = None,
        participation: Participation | None = None,
    ) -> None:
        self.membership, self._aggregator = membership, aggregator or Aggregator(FedAvg())
        self._every, self._in_turn = every, in_turn
        self._participants = Participants(membership, participation or Uniform(seed=0))
        self._transfer, self._resting = ModelTransfer(model_codec or ExactModel()), Resting(membership)
        self._merger = Merger(membership, self._aggregator, self._transfer, keep_networks)
        for handle in membership.everyone:
            handle.holds = self._aggregator.network
        self._handed_on: State | None = None

    def rounds(self, start: Position) -> Iterator[Round]:
        """Yields the rounds of an epoch from an iteration on, as many as the devices that are left need."""
        while start.iteration < (length := max(handle.iterations for handle in self.membership.handles)):
            stop = start.iteration + (self._every if self._every > 0 else length)
            yield Round(start.epoch, start.iteration, stop, ends_epoch=stop >= length)
            start = Position(start.epoch, stop)

    def train(self, current: Round, sums: EpochSums) -> Trained:
        """Trains a round and waits for both halves of every device.

        Args:
            current: the round to train.
            sums: sums of the epoch, to which the round is added.

        Raises:
            PeerError: a device failed, or too few are left.
            UserError: a device cannot do its part, for a reason that the user can mend.
        """
        self.membership.begin_round()
        chosen = self._participants.of(current)
        for handle in self.membership.handles:
            handle.port.begin_round(current.start, rests=handle not in chosen)
        return (
            self._one_by_one(current, sums, chosen)
            if self._in_turn
            else self._together(current, sums, chosen)
        )

    def average(self, trained: Trained, sums: EpochSums) -> State | None:
        """Averages and returns the global network, once all halves hold it; None if it is never averaged.

        Args:
            trained: outcome of the round.
            sums: sums of the epoch; receive the models' bytes, and the devices' networks if they are kept.

        Raises:
            PeerError: a device failed, or too few are left.
        """
        if self._in_turn:  # the server has one half, and the device half has been handed on
            return (
                None if self._handed_on is None else self._handed_on | self.membership.handles[0].half.state()
            )
        return self._aggregate(trained, sums) if trained.uploads else None

    def gather(self) -> State:
        """Averages the networks as they are, without changing them or emulating a transfer."""
        networks = self.networks()
        return average(list(networks.values()), [handle.num_samples for handle in networks], Timeline())

    def rule_state(self) -> State:
        """Returns the state of the aggregation rule."""
        return dict(self._aggregator.rule.state())

    def networks(self) -> dict[DeviceHandle, State]:
        """Returns each device's own network; of one that rests, the global one."""
        return join(self._resting.states(self._aggregator.network))

    def optimizer_states(self, shared_half: bool) -> list[State]:
        """Returns the state of both optimisers of each device, by the names of parameters; empty without any.

        Args:
            shared_half: whether the devices share one server half: then all have the same tensors of it,
                devices that have left too.
        """
        everyone, method = self.membership.everyone, Device.optimizer_state
        calls = {handle: handle.call(method) for handle in self.membership.handles if handle.has_state}
        states = self.membership.collect(calls, method)
        if shared_half:
            shared = everyone[0].half.optimizer_state()
            return [states.get(handle, {}) | shared for handle in everyone]
        halves = on_cores(lambda handle: handle.half.optimizer_state(), states)
        whole = {handle: states[handle] | half for handle, half in zip(states, halves, strict=True)}
        return [whole.get(handle, {}) for handle in everyone]

    def _together(self, current: Round, sums: EpochSums, chosen: Sequence[DeviceHandle]) -> Trained:
        trained: dict[DeviceHandle, Future[RoundReport]] = {}
        uploads: dict[DeviceHandle, Future[State]] = {}
        began = time.monotonic()
        self._hand_out(chosen)
        for handle in chosen:
            if not handle.present:
                continue
            trained[handle] = _train(handle, current)
            if self._every != 0:  # queued behind the training: starts without waiting for the others
                uploads[handle] = handle.call(Device.upload)
        reports = self.membership.collect(trained, Device.train)
        sums.training_s += time.monotonic() - began
        reports = self.membership.settle(reports)
        for handle, report in reports.items():
            sums.note(handle, report)
        return Trained(current, reports, uploads)

    def _one_by_one(self, current: Round, sums: EpochSums, chosen: Sequence[DeviceHandle]) -> Trained:
        """Each device in turn takes the device half over from the one before, trains it and hands it on."""
        reports: dict[DeviceHandle, RoundReport] = {}
        for handle in chosen:
            if current.start >= handle.iterations or not handle.present:
                continue
            before = handle.half.snapshot()  # the turn of a device that is lost will be undone
            report = self._turn(handle, current, sums)
            if report is None:
                handle.port.become_idle()
                handle.half.restore(before)
            else:
                reports[handle] = report
        self.membership.counts = True
        return Trained(current, reports, {})

    def _turn(self, handle: DeviceHandle, current: Round, sums: EpochSums) -> RoundReport | None:
        """Runs one device's turn; returns None if the device did not finish it."""
        collect = self.membership.collect
        if self._handed_on is not None and not collect(
            {handle: self._transfer.hand_over(handle, self._handed_on)}, Device.load
        ):
            return None
        began = time.monotonic()
        trained, uploaded = _train(handle, current), handle.call(Device.upload)
        report = collect({handle: trained}, Device.train).get(handle)
        sums.training_s += time.monotonic() - began
        payload = collect({handle: uploaded}, Device.upload).get(handle)
        if report is None or payload is None or not self.membership.settle({handle: report}):
            return None
        sums.note(handle, report)
        sums.uploaded({handle: num_bytes(payload)})
        state = self._transfer.received(handle, payload)
        if not leave_out_diverged(self.membership, {handle: state}):
            return None
        self._handed_on = state
        return report

    def _aggregate(self, trained: Trained, sums: EpochSums) -> State:
        before = self._aggregator.network
        uploads = {handle: trained.uploads[handle] for handle in trained.reports}
        trained.uploads.clear()  # nobody is to keep what has come
        weights = {handle: report.weight for handle, report in trained.reports.items()}
        network = self._merger.merge(uploads, weights, sums)
        self.membership.counts = True
        receivers = self._participants.of_next(trained.round)
        self._resting.wake(receivers, before)
        names = {handle: handle.device_names(network) for handle in self.membership.handles}
        held, loaded = self._transfer.distribute(names, network, before, receivers)
        self._aggregator.network = held
        self.membership.collect(loaded, Device.load)
        self._resting.put_away(receivers)
        return held

    def _hand_out(self, handles: Sequence[DeviceHandle]) -> None:
        """Gives the global network to devices that do not hold it, as they train in place of a lost one."""
        if (network := self._aggregator.network) is None:
            return
        self._resting.wake(handles, network)
        names = {handle: handle.device_names(network) for handle in handles if handle.holds is not network}
        self.membership.collect(self._transfer.hand_out(names, network), Device.load)


def _train(handle: DeviceHandle, current: Round) -> Future[RoundReport]:
    handle.port.listen()
    handle.has_state = True
    deadline_s = max(handle.limit_s(method) for method in (Device.train, Device.upload, Device.load))
    start, stop = min(current.start, handle.iterations), min(current.stop, handle.iterations)
    return handle.call(Device.train, current.epoch, start, stop, deadline_s)
