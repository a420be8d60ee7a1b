"""Models that travel: up to be averaged and back down, or from one device to the next."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.rules import AggregationRule
from pipar_rpc.base.states import State, num_bytes
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.testbed.link import Slot
from pipar_rpc.timing.timeline import NO_ITERATION, Span, Stage, Timeline
from pipar_rpc.training.device_loop import Device


def join(device_states: Mapping[DeviceHandle, State]) -> dict[DeviceHandle, State]:
    """Joins the two halves of each device's network M^k by name; split points may differ.

    The tensors of the server halves are the live ones.

    Args:
        device_states: uploaded device halves.
    """
    return {handle: state | handle.half.state() for handle, state in device_states.items()}


class Aggregator:
    """Applies the aggregation rule round after round, and keeps the global network for it.

    Args:
        rule: aggregation rule for the devices' networks.
        network: global network with which training begins; None where there is none.
    """

    def __init__(self, rule: AggregationRule, network: State | None = None) -> None:
        self.rule = rule
        self._network = None if network is None else {key: tensor.clone() for key, tensor in network.items()}

    def aggregate(self, networks: Sequence[State], samples: Sequence[int], timeline: Timeline) -> State:
        """Makes the next global network; the arguments are those of `average`."""
        with timeline.measure(Stage.AGGREGATE, NO_ITERATION):
            self._network = self.rule.aggregate(self._network, networks, samples)
        return self._network


def average(networks: Sequence[State], samples: Sequence[int], timeline: Timeline) -> State:
    """Computes the plain average sum_k |D_k| / |D| * M^k, where no aggregation rule is in force.

    Args:
        networks: states of the devices' whole networks.
        samples: number of samples that each device processed since the last aggregation.
        timeline: record of the span of the computation.
    """
    with timeline.measure(Stage.AGGREGATE, NO_ITERATION):
        return weighted_average(networks, samples)


def hand_over(handle: DeviceHandle, state: State) -> Future[None]:
    """Loads a device half that another device has trained, over the emulated downlink."""
    handle.port.downlink.wait(reserve_download(handle, state))
    return handle.call(Device.load, state)


def reserve_download(handle: DeviceHandle, *states: State) -> Slot:
    """Reserves a slot of the emulated downlink for models."""
    slot = handle.port.downlink.reserve(sum(map(num_bytes, states)))
    handle.timeline.add(Span(Stage.DOWNLOAD, NO_ITERATION, 0, slot.start, slot.end))
    return slot


def distribute(
    device_states: Mapping[DeviceHandle, State], network: State
) -> dict[DeviceHandle, Future[None]]:
    """Loads the global network into all server halves, and into all device halves over their downlinks.

    Sends each device half when its emulated transfer has ended; the links run at the same time.

    Args:
        device_states: device halves, for the names of their tensors.
        network: state of the whole network.

    Returns:
        One future per device, done when its half is loaded.
    """
    transfers = []
    for handle, uploaded in device_states.items():
        handle.half.load({key: network[key] for key in network.keys() - uploaded.keys()})
        half = {key: network[key] for key in uploaded}
        transfers.append((reserve_download(handle, half), handle, half))
    loaded: dict[DeviceHandle, Future[None]] = {}
    for slot, handle, half in sorted(transfers, key=lambda transfer: transfer[0].arrival):
        handle.port.downlink.wait(slot)
        loaded[handle] = handle.call(Device.load, half)
    return loaded
