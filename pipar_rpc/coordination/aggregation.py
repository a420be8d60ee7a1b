"""How the devices' networks become the next global network."""

from collections.abc import Mapping, Sequence

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.rules import AggregationRule
from pipar_rpc.base.states import State
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.timing.timeline import NO_ITERATION, Stage, Timeline


def join(device_states: Mapping[DeviceHandle, State]) -> dict[DeviceHandle, State]:
    """The whole network M^k of each device, its two halves joined by name: split points may differ.

    The tensors of the server halves are the live ones.

    Args:
        device_states: the device halves, as uploaded.
    """
    return {handle: state | handle.half.state() for handle, state in device_states.items()}


class Aggregator:
    """Applies the aggregation rule round after round.

    Args:
        rule: how the devices' networks are aggregated.
        network: the global network with which training begins; None where there is none.

    Attributes:
        rule: the aggregation rule.
        network: the global network that all devices hold.
    """

    def __init__(self, rule: AggregationRule, network: State | None = None) -> None:
        self.rule = rule
        self.network = None if network is None else {key: own.clone() for key, own in network.items()}

    def aggregate(self, networks: Sequence[State], samples: Sequence[int], timeline: Timeline) -> State:
        """The next global network; arguments as `average`."""
        with timeline.measure(Stage.AGGREGATE, NO_ITERATION):
            self.network = self.rule.aggregate(self.network, networks, samples)
        return self.network


def average(networks: Sequence[State], samples: Sequence[int], timeline: Timeline) -> State:
    """The plain average sum_k |D_k| / |D| * M^k, where no aggregation rule is in force.

    Args:
        networks: of the devices.
        samples: samples that each device processed since the last aggregation.
        timeline: receives the span of the computation.
    """
    with timeline.measure(Stage.AGGREGATE, NO_ITERATION):
        return weighted_average(networks, samples)
