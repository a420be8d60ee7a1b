"""What a server rank adds to the average of the devices' networks: sums of the server halves that it holds.

The order of additions is that of `pipar_rpc.aggregation.sum_tree`, wherever they are made, so the average
does not depend on where the halves are.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from pipar_rpc.aggregation.fedavg import average_of, weighted
from pipar_rpc.aggregation.sum_tree import Block, blocks_of, sum_of
from pipar_rpc.base.states import State


class PartOfAverage(NamedTuple):
    """A server rank's part of an average.

    Attributes:
        sums: sums of the weighted tensors of several devices, by blocks of `sum_tree`, in double precision.
        terms: tensors of single devices, as they are, that are in no sum.
    """

    sums: dict[Block, State]
    terms: dict[int, State]

    @classmethod
    def of(cls, states: Mapping[int, State], shares: Mapping[int, float], count: int) -> "PartOfAverage":
        """Sums up whatever all of these devices have in their server halves.

        Args:
            states: states of server halves, by the device's number among those that are averaged, from 0.
            shares: share of each of these devices in the average.
            count: number of devices that are averaged.
        """
        first = next(iter(states.values()))
        common = [
            name
            for name, tensor in first.items()
            if tensor.is_floating_point() and all(name in state for state in states.values())
        ]
        blocks = [block for block in blocks_of(states, count) if block[1] > 1]
        sums = {
            block: {
                name: sum_of(block, lambda k, n=name: weighted(states[k][n], shares[k]), count)  # type: ignore[misc]
                for name in common
            }
            for block in blocks
        }
        summed = {number for start, size in blocks for number in range(start, start + size)}
        terms = {
            number: {
                name: tensor for name, tensor in state.items() if number not in summed or name not in common
            }
            for number, state in states.items()
        }
        return cls(sums, terms)


def joined_average(
    terms: Mapping[int, State], parts: Sequence[PartOfAverage], shares: Sequence[float], pattern: State
) -> State:
    """Joins the parts of all server ranks to the average.

    Args:
        terms: what rank 0 has of each device's network, by the device's number.
        parts: parts of the other server ranks.
        shares: share of each device.
        pattern: any state of the whole network, for names and types.
    """
    whole = {number: dict(state) for number, state in terms.items()}
    sums: dict[str, dict[Block, Tensor]] = {}
    for part in parts:
        for number, state in part.terms.items():
            whole[number] |= state
        for block, state in part.sums.items():
            for name, total in state.items():
                sums.setdefault(name, {})[block] = total
    return {name: average_of(name, like, whole, shares, sums.get(name)) for name, like in pattern.items()}
