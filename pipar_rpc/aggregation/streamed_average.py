"""The average of networks that come one after the other, in pieces and in any order, and are not kept."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipar_rpc.aggregation.fedavg import weighted_sums
from pipar_rpc.aggregation.sum_tree import Block, TreeSum, smallest_block, terms_of
from pipar_rpc.base.cores import on_cores
from pipar_rpc.base.states import State, num_numbers


class StreamedAverage:
    """The bits of `weighted_average`, from sums of the networks that have come so far.

    A tensor waits as it came until that of the neighbour in the tree is there; then there is only the sum of
    both. Of K networks that come in order, about log2(K) sums in double precision are kept.

    Args:
        shares: share of each device in the average.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self._count, self._shares = len(shares), dict(enumerate(shares))
        self._waiting: dict[str, dict[int, Tensor]] = {}
        self._sums: dict[str, TreeSum] = {}
        self._largest: State = {}

    def add(self, number: int, state: Mapping[str, Tensor]) -> None:
        """Adds tensors of a device's network.

        Args:
            number: number of the device among those that are averaged, from 0.
            state: tensors, which must stay as they are until the average is made.
        """
        pair = number & ~1, min(2, smallest_block(self._count)[1])
        both, ready = terms_of(pair, self._count), dict[str, dict[int, Tensor]]()
        for name, tensor in state.items():
            if not tensor.is_floating_point():
                self._largest[name] = torch.maximum(tensor, self._largest.get(name, tensor))
                continue
            waiting = self._waiting.setdefault(name, {})
            waiting[number] = tensor
            if all(k in waiting for k in both):
                ready[name] = {k: waiting.pop(k) for k in both}
        self.add_sums(pair, weighted_sums(pair, ready, self._shares, self._count))

    def add_sums(self, block: Block, sums: Mapping[str, Tensor]) -> None:
        """Adds weighted sums of all devices of a block, in double precision; they are changed."""
        for name in sums:
            self._sums.setdefault(name, TreeSum(self._count))
        on_cores(lambda name: self._sums[name].add(block, sums[name]), sums, num_numbers(sums))

    def result(self, pattern: Mapping[str, Tensor]) -> State:
        """Returns the average, once all tensors of all devices have been added.

        Args:
            pattern: any state of the whole network, for names and types.
        """
        made = on_cores(lambda name: self._average(name, pattern[name].dtype), pattern, num_numbers(pattern))
        return dict(zip(pattern, made, strict=True))

    def _average(self, name: str, dtype: torch.dtype) -> Tensor:
        if name in self._largest:
            return self._largest[name]
        return self._sums[name].total.to(dtype)
