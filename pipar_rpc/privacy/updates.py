"""Clipping of each device's update and noise on their average: differential privacy of whole devices."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pipar_rpc.base.states import State
from pipar_rpc.privacy.noise import PrivacyNoise
from pipar_rpc.privacy.spec import PrivacySpec, UpdateNoiseSpec

ROUNDS = "privacy.updates.rounds"  # in the state: number of averages so far


class Rule(Protocol):
    """What makes the next global network of the average: an `aggregation.rules.AggregationRule`."""

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """The next global network."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """What the rule remembers from round to round."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` returned."""
        ...


class NoisyUpdates:
    """DP-FedAvg: McMahan, Ramage, Talwar and Zhang, "Learning Differentially Private Recurrent Language
    Models", ICLR 2018, Algorithm 1 with flat clipping, weights of 1 and the fixed-denominator estimator.

    With w the global network before and w_k that of device k, the average is
    w + (sum_k (w_k - w) min(1, C / ||w_k - w||) + n) / m, with the L2 norm over all trained parameters and n
    normal with standard deviation z C. m does not change when a device is lost, so that one device changes
    the sum by at most C. The average goes on to a rule as the one network of the round: what it makes of
    that reveals no more. Everything that is not trained, frozen parameters and buffers, stays as it was.

    Args:
        rule: rule that takes an average: FedAvg or a server's optimiser.
        spec: C and z.
        noise: source of the noise.
        parameters: trained parameters; see `names_of`.
        number: m, the number of devices that a round has if none is lost.
        on_clipped: function called after each average with the numbers of clipped and of all updates.
    """

    def __init__(
        self,
        rule: Rule,
        spec: UpdateNoiseSpec,
        noise: PrivacyNoise,
        parameters: Mapping[str, str],
        number: int,
        on_clipped: Callable[[int, int], None] = lambda clipped, updates: None,
    ) -> None:
        self._rule, self._spec, self._noise, self._number = rule, spec, noise, number
        self._parameters, self._on_clipped, self._rounds = dict(parameters), on_clipped, 0

    def aggregate(self, before: State | None, networks: Sequence[State], samples: Sequence[int]) -> State:
        """What the rule makes of the average with noise; the devices' samples do not matter."""
        assert before is not None, "updates are changes of a global network"
        first = dict.fromkeys(self._parameters.values())
        sums, clipped = {name: torch.zeros_like(before[name], dtype=torch.float64) for name in first}, 0
        for network in networks:
            update = {name: network[name].double() - before[name].double() for name in sums}
            norm = math.sqrt(sum(float(change.square().sum()) for change in update.values()))
            clipped += norm > self._spec.max_norm
            for name, change in update.items():
                sums[name].add_(change, alpha=self._spec.max_norm / max(norm, self._spec.max_norm))
        noised = {name: self._noised(name, before[name], total) for name, total in sums.items()}
        average = before | {name: noised[first] for name, first in self._parameters.items()}
        self._rounds += 1
        self._on_clipped(clipped, len(networks))
        return self._rule.aggregate(before, [average], [1])

    def _noised(self, name: str, before: Tensor, total: Tensor) -> Tensor:
        scale = self._spec.noise_multiplier * self._spec.max_norm
        if scale:
            total = total + scale * self._noise.gaussian(before.shape, self._rounds, name)
        return (before.double() + total / self._number).to(before.dtype)

    def state(self) -> State:
        """The rule's state, and the number of averages so far, by which noise is named."""
        return {**self._rule.state(), ROUNDS: torch.tensor(self._rounds)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what `state` returned; empty at the beginning of a training."""
        self._rounds = int(state.get(ROUNDS, 0))
        self._rule.load({name: tensor for name, tensor in state.items() if name != ROUNDS})


def names_of(network: nn.Module) -> dict[str, str]:
    """The trained parameters: each name, and the first of the names of the same parameter."""
    named, first = network.named_parameters(remove_duplicate=False), dict[int, str]()
    return {name: first.setdefault(id(own), name) for name, own in named if own.requires_grad}


def protected(
    rule: Rule,
    privacy: PrivacySpec,
    seed: int,
    network: nn.Module,
    number: int,
    on_clipped: Callable[[int, int], None],
) -> Rule:
    """The rule, behind clipping and noise of updates if `privacy` has them.

    Args:
        rule: rule that takes an average.
        privacy: mechanisms, the same for all devices as far as updates go.
        seed: seed of the experiment.
        network: the uncut network, of which only the names of parameters matter.
        number: number of devices that a round has if none is lost.
        on_clipped: function called after each average with the numbers of clipped and of all updates.
    """
    if privacy.updates is None:
        return rule
    noise = PrivacyNoise(seed, privacy.secure_noise, "updates")
    return NoisyUpdates(rule, privacy.updates, noise, names_of(network), number, on_clipped)
