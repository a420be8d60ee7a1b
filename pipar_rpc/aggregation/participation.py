"""Which devices train a round. The others keep what they hold: data, optimiser, the network they were given.

A further policy is a class with the method of `Participation`, named by `participation._target_`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.base.random_streams import generator

KEY = "participation._target_"


@dataclass(frozen=True)
class ParticipationSpec:
    """All that is needed to make a policy; plain data.

    Attributes:
        fraction: share of the devices that train a round, above 0; 1 for all.
        per_round: number of devices that train a round; None for the share.
        target: dotted name of a class of the user's; None for a random choice.
        args: keyword arguments for that class.
    """

    fraction: float = 1.0
    per_round: int | None = None
    target: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def most(self, num_devices: int) -> int:
        """Number of devices that train a round; with a class of the user's, at most: all of them."""
        if self.target is not None:
            return num_devices
        wanted = self.per_round or max(1, int(self.fraction * num_devices + 0.5))
        return min(wanted, num_devices)

    @property
    def everyone(self) -> bool:
        """Whether all devices train every round."""
        return self.fraction == 1 and self.per_round is None and self.target is None


@runtime_checkable
class Participation(Protocol):
    """Chooses the devices of a round: the same for the same arguments, so that trainings can be resumed."""

    def choose(self, round: int, devices: Sequence[int]) -> Sequence[int]:
        """Returns the numbers of the devices that train, at least one.

        Args:
            round: number of the round, from 1.
            devices: numbers of the devices that are there, from 1, in ascending order.
        """
        ...


class Uniform:
    """So many devices drawn at random, each set of them as likely as any other (McMahan et al., 2017).

    Args:
        seed: seed of the experiment.
        spec: share or number of the devices that are there; all by default.
    """

    def __init__(self, seed: int, spec: ParticipationSpec | None = None) -> None:
        self._seed, self._spec = seed, spec or ParticipationSpec()

    def choose(self, round: int, devices: Sequence[int]) -> Sequence[int]:
        """Draws devices for a round."""
        wanted = self._spec.most(len(devices))
        if wanted == len(devices):
            return devices
        order = torch.randperm(len(devices), generator=generator(self._seed, "participation", round))
        return sorted(devices[index] for index in order[:wanted].tolist())


class OwnParticipation:
    """A policy of the user's: its mistakes become one line.

    Args:
        policy: the user's object.
        target: its dotted name.
    """

    def __init__(self, policy: Participation, target: str) -> None:
        self._policy, self._target = policy, target

    def choose(self, round: int, devices: Sequence[int]) -> Sequence[int]:
        """What the user's policy chooses; raises UserError."""
        try:
            chosen = sorted({int(number) for number in self._policy.choose(round, tuple(devices))})
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{KEY}={self._target} failed in round {round}: {why}") from error
        if not chosen or not set(chosen) <= set(devices):
            what = f"must choose some of {list(devices)} in round {round}, not {chosen}"
            raise UserError(f"{KEY}={self._target}: {what}")
        return chosen


def build_participation(spec: ParticipationSpec, seed: int, num_devices: int) -> Participation:
    """Makes the policy; a class of the user's gets `seed` and `num_devices` if it has parameters for them.

    Raises:
        UserError: no such class, it failed, or it has no method `choose`.
    """
    if spec.target is None:
        return Uniform(seed, spec)
    policy = dotted.call(KEY, spec.target, {"seed": seed, "num_devices": num_devices}, spec.args)
    if not isinstance(policy, Participation):
        what = f"a class with the method choose(round, devices), not {type(policy).__name__}"
        raise ConfigError(KEY, spec.target, what)
    return OwnParticipation(policy, spec.target)
