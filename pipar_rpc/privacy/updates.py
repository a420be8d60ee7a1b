"""Clipping of each device's update and noise on their average: differential privacy of whole devices."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pipar_rpc.base.cores import on_cores
from pipar_rpc.base.states import State, is_finite, num_numbers
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
        total = self.begin(before)
        for network in networks:
            total.add(network)
        return self.conclude(before, total)

    def begin(self, before: State) -> "ClippedSum":
        """An empty sum of clipped changes of `before`, for networks that come one by one."""
        return ClippedSum(before, dict.fromkeys(self._parameters.values()), self._spec.max_norm)

    def conclude(self, before: State, total: "ClippedSum") -> State:
        """What the rule makes of the average of these updates with noise."""
        noised = {name: self._noised(name, before[name], own) for name, own in total.sums.items()}
        average = before | {name: noised[first] for name, first in self._parameters.items()}
        self._rounds += 1
        self._on_clipped(total.clipped, total.updates)
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


class ClippedSum:
    """The sum of the devices' clipped updates, in double precision; in the order in which they come.

    Args:
        before: global network, of which updates are changes.
        names: trained parameters.
        max_norm: C.

    Attributes:
        sums: sums of the clipped changes, by name.
        clipped: number of updates that were clipped.
        updates: number of updates.
    """

    def __init__(self, before: State, names: Iterable[str], max_norm: float) -> None:
        self._before, self._max_norm, self._rest_is_finite = before, max_norm, True
        self.sums = {name: torch.zeros_like(before[name], dtype=torch.float64) for name in names}
        self.clipped = self.updates = 0

    def add(self, network: State) -> None:
        """Adds the update of a device's network."""
        changes, numbers = dict[str, Tensor](), num_numbers(self.sums)

        def change(name: str) -> float:
            changes[name] = network[name].double() - self._before[name].double()
            return float(changes[name].square().sum())

        norm = math.sqrt(sum(on_cores(change, self.sums, numbers)))
        share = self._max_norm / max(norm, self._max_norm)
        on_cores(lambda name: self.sums[name].add_(changes[name], alpha=share), self.sums, numbers)
        self.clipped += norm > self._max_norm
        self.updates += 1
        rest = {name: tensor for name, tensor in network.items() if name not in self.sums}
        self._rest_is_finite &= is_finite(rest)

    def is_finite(self) -> bool:
        """Whether no number of any network was infinite or NaN; clipping leaves NaN of either."""
        return self._rest_is_finite and is_finite(self.sums)


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
