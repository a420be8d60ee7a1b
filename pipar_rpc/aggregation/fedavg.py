"""Federated averaging of whole networks (McMahan et al., 2017)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipar_rpc.aggregation.sum_tree import Block, smallest_block, sum_of
from pipar_rpc.base.states import State


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
    which an average has no meaning.

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
    shares = [weight / total for weight in weights]
    numbered = dict(enumerate(states))
    return {key: average_of(key, like, numbered, shares) for key, like in states[0].items()}


def average_of(
    key: str,
    like: Tensor,
    states: Mapping[int, Mapping[str, Tensor]],
    shares: Sequence[float],
    known: Mapping[Block, Tensor] | None = None,
) -> Tensor:
    """Averages one tensor of all devices.

    Args:
        key: its name.
        like: a tensor of its type.
        states: states of the devices, by their numbers from 0.
        shares: share of each device.
        known: weighted sums of blocks of devices that were computed elsewhere, in double precision.
    """
    count = len(shares)
    if not like.is_floating_point():
        return torch.stack([states[k][key] for k in range(count)]).amax(dim=0)
    total = sum_of(smallest_block(count), lambda k: weighted(states[k][key], shares[k]), count, known)
    return total.to(like.dtype)


def weighted(tensor: Tensor, share: float) -> Tensor:
    """A device's term of an average, in double precision and in a tensor of its own."""
    return tensor.to(torch.float64, copy=True).mul_(share)
