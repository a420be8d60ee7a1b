"""Federated averaging of whole networks (McMahan et al., 2017)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipar_rpc.aggregation import pieces
from pipar_rpc.aggregation.sum_tree import Block, smallest_block, sum_of
from pipar_rpc.base.states import State, copied

Terms = Mapping[int, Tensor]  # tensors of one name, by the numbers of their devices


class FedAvg:
    """The average, weighted by samples (McMahan et al., 2017); see `weighted_average`."""

    networks_kept: ClassVar[int] = 0
    takes_average: ClassVar[bool] = True

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """The average; the global network before does not matter."""
        return weighted_average(networks, samples)

    def state(self) -> State:
        """Nothing."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing."""


def weighted_average(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
    """Averages state dicts: M = sum_k w_k / sum(w) * M^k.

    Floating-point entries are summed in double precision, in the order of `pipar_rpc.aggregation.sum_tree`,
    and returned in their own type; integer entries (BatchNorm's `num_batches_tracked`) take the maximum, for
    which an average has no meaning. Where the networks come one after the other, `StreamedAverage` makes
    the same bits without keeping them.

    Args:
        states: one state dict per device, all with the same keys, shapes and types.
        weights: one per state, not negative: the samples processed since the last aggregation.

    Raises:
        ValueError: nothing to average, weights that add up to zero, or states with other keys.
    """
    total = float(sum(weights))
    if not states or len(states) != len(weights):
        raise ValueError(f"expected one weight per state, got {len(states)} states, {len(weights)} weights")
    if total <= 0 or min(weights) < 0:
        raise ValueError(f"expected weights >= 0 with a positive sum, got {list(weights)}")
    for state in states:
        if state.keys() != states[0].keys():
            raise ValueError(f"states differ in their keys: {sorted(state.keys() ^ states[0].keys())}")
    if len(states) == 1:
        return copied(states[0])
    shares = {k: weight / total for k, weight in enumerate(weights)}
    terms = {key: {k: state[key] for k, state in enumerate(states)} for key in states[0]}
    floats = {key: own for key, own in terms.items() if own[0].is_floating_point()}
    sums = weighted_sums(smallest_block(len(states)), floats, shares, len(states), keep_type=True)
    return {
        key: sums[key] if key in sums else torch.stack(list(own.values())).amax(dim=0)
        for key, own in terms.items()
    }


def weighted_sums(
    block: Block, terms: Mapping[str, Terms], shares: Mapping[int, float], count: int, keep_type: bool = False
) -> State:
    """Sums the devices' terms of a block, in double precision; see `pipar_rpc.aggregation.sum_tree`.

    Args:
        block: the block.
        terms: floating-point tensors of all devices in the block, by name. They are not changed.
        shares: share of each device.
        count: number of all devices.
        keep_type: whether the sums are rounded to the tensors' own type.
    """
    sums: State = {}
    work: list[tuple[Tensor, pieces.Make]] = []
    for name, own in terms.items():
        like = next(iter(own.values()))
        dtype = like.dtype if keep_type else torch.float64
        sums[name] = torch.empty(like.shape, dtype=dtype, device=like.device)
        work.append((sums[name], _piece_of_sum(block, own, shares, count)))
    pieces.fill(work)
    return sums


def _piece_of_sum(block: Block, terms: Terms, shares: Mapping[int, float], count: int) -> pieces.Make:
    flat = {number: tensor.reshape(-1) for number, tensor in terms.items()}

    def make(piece: slice) -> Tensor:
        return sum_of(block, lambda k: weighted(flat[k][piece], shares[k]), count)

    return make


def weighted(tensor: Tensor, share: float) -> Tensor:
    """A device's term of an average, in double precision and in a tensor of its own.

    The product is rounded by itself: `add_(tensor, alpha=share)` fuses both steps and gives other bits.
    """
    return tensor.to(torch.float64, copy=True).mul_(share)
