"""From the device halves that come up to the next global network.

Where the rule can take networks as they come (see `streams.py`), rank 0 does not keep them. Shares and order
of additions are those of the devices whose uploads are awaited. If one of these is lost meanwhile, or if the
result is not finite, what was summed up is dropped, the devices are asked for their halves again, and all of
them are kept and looked at one by one: then a device that has diverged leaves, and the others are averaged.
"""

from collections.abc import Mapping
from concurrent.futures import Future

from pipar_rpc.base.errors import LostError
from pipar_rpc.base.states import State, copied, is_finite, num_bytes
from pipar_rpc.coordination.aggregation import Aggregator, half_is_finite, join
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.epoch_result import EpochSums
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.model_transfer import ModelTransfer
from pipar_rpc.coordination.streams import Stream, open_stream
from pipar_rpc.training.device_loop import Device

Uploads = dict[DeviceHandle, Future[State]]


class Merger:
    """Makes the next global network of the networks that have been trained.

    Args:
        membership: devices that take part.
        aggregator: maker of the global network.
        transfer: decodes what comes up.
        keep_networks: whether to keep each device's own network, which takes memory.
    """

    def __init__(
        self, membership: Membership, aggregator: Aggregator, transfer: ModelTransfer, keep_networks: bool
    ) -> None:
        self._membership, self._aggregator, self._transfer = membership, aggregator, transfer
        self._keep_networks = keep_networks

    def merge(self, uploads: Uploads, weights: Mapping[DeviceHandle, int], sums: EpochSums) -> State:
        """Waits for the uploads and merges what the devices have trained.

        If all who trained are lost, the network stays as it was: the others go on with it.

        Args:
            uploads: device halves on their way; emptied, so that nobody keeps what has come.
            weights: number of samples of each of these devices since the last aggregation.
            sums: sums of the epoch; receive the models' bytes, and the devices' networks if they are kept.

        Raises:
            PeerError: a device failed, or too few are left.
        """
        awaited = list(uploads)
        if awaited and not self._keep_networks:
            samples = _counted([weights[handle] for handle in awaited])
            stream = open_stream(self._aggregator, awaited, samples, sums.aggregation)
            if stream is not None and self._streamed(stream, uploads, sums):
                return stream.finish()
        for handle in awaited:
            if handle not in uploads and handle.present:  # its half was taken, and is not here any more
                uploads[handle] = handle.call(Device.upload)
        return self._of_all(uploads, weights, sums)

    def _streamed(self, stream: Stream, uploads: Uploads, sums: EpochSums) -> bool:
        """Has a stream take all uploads; returns whether all have come and all are finite."""
        numbers = {handle: number for number, handle in enumerate(uploads)}
        for handle, payload in self._membership.arriving(uploads, Device.upload):
            del uploads[handle]
            sums.uploaded({handle: num_bytes(payload)})
            stream.add(numbers[handle], self._transfer.received(handle, payload))
            if not all(each.present for each in numbers):
                return False
        there = set(self._membership.handles)
        return not uploads and there.issuperset(numbers) and stream.is_finite()

    def _of_all(self, uploads: Uploads, weights: Mapping[DeviceHandle, int], sums: EpochSums) -> State:
        """Merges networks that are all here at once, without those of devices that have diverged."""
        in_order = {handle: uploads[handle] for handle in weights if handle in uploads}
        uploads.clear()
        payloads = self._membership.collect(in_order, Device.upload)
        sums.uploaded({handle: num_bytes(payload) for handle, payload in payloads.items()})
        states = {handle: self._transfer.received(handle, own) for handle, own in payloads.items()}
        states = leave_out_diverged(self._membership, states)
        before = self._aggregator.network
        if not states and before is not None:
            return before
        if self._keep_networks:
            sums.device_networks = {handle: copied(network) for handle, network in join(states).items()}
        samples = _counted([weights[handle] for handle in states])
        stream = open_stream(self._aggregator, list(states), samples, sums.aggregation)
        if stream is None:
            return self._aggregator.aggregate(list(join(states).values()), samples, sums.aggregation)
        for number, state in enumerate(states.values()):
            stream.add(number, state)
        return stream.finish()


def _counted(samples: list[int]) -> list[int]:
    """The devices' weights; all alike if those that had something to train are gone."""
    return samples if any(samples) else [1] * len(samples)


def leave_out_diverged(
    membership: Membership, states: Mapping[DeviceHandle, State]
) -> dict[DeviceHandle, State]:
    """Returns the device halves of networks whose numbers are finite; the devices of the others leave."""
    for handle, state in states.items():
        if not (is_finite(state) and half_is_finite(handle)):
            why = "its weights are not finite: a smaller optimizer.lr may help"
            membership.lose(handle, LostError(why))
    return {handle: state for handle, state in states.items() if handle.present}
