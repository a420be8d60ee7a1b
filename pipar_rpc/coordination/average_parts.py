"""What a server rank adds to the average of the devices' networks: sums of the server halves that it holds.

The order of additions is that of `pipar_rpc.aggregation.sum_tree`, wherever they are made, so the average
does not depend on where the halves are.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pipar_rpc.aggregation.fedavg import weighted_sums
from pipar_rpc.aggregation.streamed_average import StreamedAverage
from pipar_rpc.aggregation.sum_tree import Block, blocks_of, terms_of
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
        """Sums up what these devices have in their server halves, which may begin at different layers.

        Args:
            states: states of server halves, by the device's number among those that are averaged, from 0.
            shares: share of each of these devices in the average.
            count: number of devices that are averaged.
        """
        holders: dict[str, list[int]] = {}
        for number, state in states.items():
            for name, tensor in state.items():
                if tensor.is_floating_point():
                    holders.setdefault(name, []).append(number)
        in_blocks: dict[Block, list[str]] = {}
        for name, numbers in holders.items():
            for block in blocks_of(numbers, count):
                if block[1] > 1:
                    in_blocks.setdefault(block, []).append(name)
        sums, terms = dict[Block, State](), {number: dict(state) for number, state in states.items()}
        for block, names in in_blocks.items():
            own = {name: {k: terms[k].pop(name) for k in terms_of(block, count)} for name in names}
            sums[block] = weighted_sums(block, own, shares, count)
        return cls(sums, terms)

    def add_to(self, average: StreamedAverage) -> None:
        """Adds the part to an average; the sums are changed."""
        for block, sums in self.sums.items():
            average.add_sums(block, sums)
        for number, state in self.terms.items():
            average.add(number, state)
