"""How the devices' networks become the next global network."""

from collections.abc import Mapping, Sequence

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.aggregation.rules import AggregationRule
from pipar_rpc.base.states import State, is_finite
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.far_half import FarHalf
from pipar_rpc.timing.timeline import NO_ITERATION, Stage, Timeline


def join(device_states: Mapping[DeviceHandle, State]) -> dict[DeviceHandle, State]:
    """Joins the two halves of each device's network M^k by name; split points may differ.

    The tensors of the server halves are the live ones.

    Args:
        device_states: uploaded device halves.
    """
    return {handle: state | handle.half.state() for handle, state in device_states.items()}


def half_is_finite(handle: DeviceHandle) -> bool:
    """Whether no number of a device's server half is infinite or NaN; its own rank looks."""
    half = handle.half
    return half.is_finite() if isinstance(half, FarHalf) else is_finite(half.state())


class Aggregator:
    """Applies the aggregation rule round after round.

    Args:
        rule: aggregation rule for the devices' networks.
        network: global network with which training begins; None where there is none.

    Attributes:
        rule: aggregation rule.
        network: global network that all devices hold.
    """

    def __init__(self, rule: AggregationRule, network: State | None = None) -> None:
        self.rule = rule
        self.network = None if network is None else {key: tensor.clone() for key, tensor in network.items()}

    def aggregate(self, networks: Sequence[State], samples: Sequence[int], timeline: Timeline) -> State:
        """Makes the next global network; the arguments are those of `average`."""
        with timeline.measure(Stage.AGGREGATE, NO_ITERATION):
            self.network = self.rule.aggregate(self.network, networks, samples)
        return self.network


def average(networks: Sequence[State], samples: Sequence[int], timeline: Timeline) -> State:
    """Computes the plain average sum_k |D_k| / |D| * M^k, where no aggregation rule is in force.

    Args:
        networks: states of the devices' whole networks.
        samples: number of samples that each device processed since the last aggregation.
        timeline: record of the span of the computation.
    """
    with timeline.measure(Stage.AGGREGATE, NO_ITERATION):
        return weighted_average(networks, samples)
