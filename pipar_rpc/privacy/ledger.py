"""What each device's data has been exposed to so far, and the epsilons that follow from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipar_rpc.privacy.account import composed_epsilon, gaussian_epsilon, laplace_epsilon
from pipar_rpc.privacy.spec import LAPLACE, PrivacySpec


@dataclass(frozen=True)
class Exposed:
    """How often a device's data was used.

    Attributes:
        iterations: number of mini-batches that the device trained.
        released: number of those whose activations left the device.
        epochs: number of epochs in which any did.
        last_epoch: the last of these epochs; 0 if there is none.
        rounds: averages in which the device could have taken part: pairs of the probability that it did and
            their number.
    """

    iterations: int = 0
    released: int = 0
    epochs: int = 0
    last_epoch: int = 0
    rounds: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True)
class Account:
    """What the account of one device depends on, besides how often its data was used.

    Attributes:
        privacy: mechanisms.
        sample_rate: share of the device's samples in a mini-batch: the probability that one is in it.
        iterations: number of mini-batches of an epoch.
    """

    privacy: PrivacySpec
    sample_rate: float
    iterations: int

    def dpsgd(self, exposed: Exposed) -> float | None:
        """Returns the epsilon of the trained model towards single samples; None without this mechanism."""
        spec = self.privacy.dpsgd
        if spec is None or spec.noise_multiplier is None:
            return None
        return gaussian_epsilon(spec.noise_multiplier, self.sample_rate, exposed.iterations, spec.delta)

    def is_spent(self, exposed: Exposed) -> bool:
        """Whether a further epoch would go beyond the device's target; never without one."""
        spec = self.privacy.dpsgd
        if spec is None or spec.target_epsilon is None:
            return False
        epsilon = self.dpsgd(replace(exposed, iterations=exposed.iterations + self.iterations))
        return epsilon is not None and epsilon > spec.target_epsilon

    def activations(self, exposed: Exposed) -> float | None:
        """Returns the epsilon of a sample's activations towards the server, all its releases together.

        Any two activations differ by at most twice the norm to which they are clipped. A sample is released
        at most once in an epoch; with Poisson sampling, at most in each mini-batch.
        """
        spec = self.privacy.activations
        if spec is None:
            return None
        releases = exposed.released if self.privacy.poisson else exposed.epochs
        noise = spec.noise_multiplier / 2
        if spec.distribution == LAPLACE:
            return laplace_epsilon(noise, releases)
        return gaussian_epsilon(noise, 1.0, releases, spec.delta)

    def updates(self, exposed: Exposed) -> float | None:
        """Returns the epsilon of the trained model towards whole devices; None without this mechanism."""
        spec = self.privacy.updates
        if spec is None:
            return None
        return composed_epsilon(spec.noise_multiplier, exposed.rounds, spec.delta)


class Ledger:
    """Counts how often the devices' data was used, and makes the account.

    Args:
        accounts: accounts of the devices, in the order of their numbers.
    """

    def __init__(self, accounts: Sequence[Account]) -> None:
        self._accounts = tuple(accounts)
        self._exposed = [Exposed() for _ in accounts]
        self._clipped = self._updates = 0

    def trained(self, number: int, epoch: int, iterations: int, split: bool) -> None:
        """Notes the round of a device.

        Args:
            number: number of the device, from 1.
            epoch: number of the epoch, from 1.
            iterations: number of mini-batches that it trained.
            split: whether their activations left it.
        """
        known = self._exposed[number - 1]
        self._exposed[number - 1] = known = replace(known, iterations=known.iterations + iterations)
        if split and iterations:
            self._exposed[number - 1] = replace(
                known,
                released=known.released + iterations,
                epochs=known.epochs + (epoch > known.last_epoch),
                last_epoch=epoch,
            )

    def averaged(self, participation: float) -> None:
        """Notes an average, in which any device could have taken part, with this probability."""
        self._exposed = [_with_round(exposed, participation) for exposed in self._exposed]

    def clipped(self, clipped: int, updates: int) -> None:
        """Notes that so many of so many updates of devices were clipped."""
        self._clipped, self._updates = self._clipped + clipped, self._updates + updates

    def drain_clipped(self) -> float | None:
        """Returns the share of updates that were clipped since the last call; None if there were none."""
        clipped, updates, self._clipped, self._updates = self._clipped, self._updates, 0, 0
        return clipped / updates if updates else None

    def epsilons(self) -> dict[str, tuple[float, ...] | None]:
        """Returns the epsilons of all devices by columns of results.csv; None where no device has one."""
        pairs = list(zip(self._accounts, self._exposed, strict=True))
        return {
            "epsilon_dpsgd": _of_all([account.dpsgd(exposed) for account, exposed in pairs]),
            "epsilon_activations": _of_all([account.activations(exposed) for account, exposed in pairs]),
            "epsilon_updates": _of_all([account.updates(exposed) for account, exposed in pairs]),
        }

    def spent(self) -> str:
        """Says which device's budget a further epoch would exceed; empty if none's."""
        for number, (account, exposed) in enumerate(zip(self._accounts, self._exposed, strict=True), start=1):
            if account.is_spent(exposed):
                spec, epsilon = account.privacy.dpsgd, account.dpsgd(exposed)
                target = f"privacy.dpsgd.target_epsilon={spec.target_epsilon:g}" if spec else ""
                return f"device {number} has spent epsilon {epsilon:.4g}: another epoch would exceed {target}"
        return ""

    def state(self) -> list[dict[str, Any]]:
        """Returns the counts, for checkpoints."""
        return [asdict(exposed) for exposed in self._exposed]

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Goes on from what `state` returned; empty at the beginning of training."""
        for index, counts in enumerate(state):
            self._exposed[index] = Exposed(**counts)


def _with_round(exposed: Exposed, participation: float) -> Exposed:
    known = dict(exposed.rounds)
    known[participation] = known.get(participation, 0) + 1
    return replace(exposed, rounds=tuple(known.items()))


def _of_all(values: Sequence[float | None]) -> tuple[float, ...] | None:
    """The figures of all devices, infinite for devices without the mechanism; None if none has it."""
    if all(value is None for value in values):
        return None
    return tuple(math.inf if value is None else value for value in values)
