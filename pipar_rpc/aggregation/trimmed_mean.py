"""A mean that a few devices cannot move far (Yin et al., 2018)."""

import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from pipar_rpc.aggregation.rule_arguments import KEY, argument
from pipar_rpc.base.errors import as_number
from pipar_rpc.base.states import State

log = logging.getLogger(__name__)


class TrimmedMean:
    """The coordinate-wise trimmed mean.

    It is Definition 2 of Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates", ICML 2018. Of the K values that the devices have for a number, the floor(ratio * K) smallest and
    as many of the largest are dropped; the result is the mean of the others, computed in double precision.
    As in the paper, all devices weigh the same, however many samples they have; those that processed none
    have no change to offer, and are left out of K. The networks are trimmed, which is the same as to trim
    their changes, for all began the round with the same network. The order of the devices does not matter.

    Integers (BatchNorm's `num_batches_tracked`) take the largest value that is not dropped. NaN counts as
    larger than any number: it is dropped as these are, and where more devices have it, so has the result.

    Args:
        num_devices: devices with which the training begins.
        ratio: share of the devices that is dropped on each side, 0 or more and below 0.5. Either 0, for the
            mean, or so large that at least one of the devices is dropped. When devices leave, it may become
            none, of which a line in the log warns.

    Raises:
        ConfigError: the ratio is out of range.
    """

    networks_kept: ClassVar[int] = 0

    def __init__(self, num_devices: int, ratio: float = 0.25) -> None:
        self._ratio = argument("ratio", ratio, 0 <= as_number(ratio) < 0.5, "0 or more and below 0.5")
        some = "0" if num_devices < 3 else f"0, or 1/{num_devices} or more and below 0.5"
        drops = self._ratio == 0 or self._num_dropped(num_devices) > 0
        argument("ratio", ratio, drops, f"{some} (of {num_devices} devices {self._ratio:g} drops none)")
        self._told = self._ratio == 0

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """The trimmed mean; the global network before does not matter."""
        trained = [network for network, number in zip(networks, samples, strict=True) if number > 0]
        dropped = self._num_dropped(len(trained))
        if not dropped and not self._told:
            self._told = True
            which = f"of the {len(trained)} networks that trained in a round"
            log.warning("%s.args.ratio=%g drops none %s", KEY, self._ratio, which)
        return {name: _trimmed_mean([own[name] for own in trained], dropped) for name in trained[0]}

    def state(self) -> State:
        """Nothing."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing."""

    def _num_dropped(self, num_devices: int) -> int:
        """How many are dropped on each side; exactly, for 0.29 * 100 is below 29 in binary."""
        return int(Fraction(repr(self._ratio)) * num_devices)


def _trimmed_mean(tensors: Sequence[Tensor], dropped: int) -> Tensor:
    ordered = torch.stack(list(tensors), dim=-1).sort(dim=-1).values  # NaN comes last
    kept = ordered[..., dropped : len(tensors) - dropped]
    if not kept.is_floating_point():
        return kept.amax(dim=-1)
    return kept.mean(dim=-1, dtype=torch.float64).to(kept.dtype)
