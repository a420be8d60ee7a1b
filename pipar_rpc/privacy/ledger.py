"""What each device's data has been exposed to so far, and the epsilons that follow from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pipar_rpc.privacy.account import gaussian_epsilon, laplace_epsilon
from pipar_rpc.privacy.spec import LAPLACE, POISSON, PrivacySpec


@dataclass(frozen=True)
class Exposed:
    """How often a device's data was used.

    Attributes:
        iterations: number of mini-batches that the device trained.
        released: number of those whose activations left the device.
        epochs: number of epochs in which any did.
        last_epoch: the last of these epochs; 0 if there is none.
        rounds: number of averages in which the device could have taken part.
    """

    iterations: int = 0
    released: int = 0
    epochs: int = 0
    last_epoch: int = 0
    rounds: int = 0


@dataclass(frozen=True)
class Account:
    """What the account of one device depends on, besides how often its data was used.

    Attributes:
        privacy: mechanisms.
        sample_rate: share of the device's samples in a mini-batch: the probability that one is in it.
        participation: probability that the device takes part in a round.
    """

    privacy: PrivacySpec
    sample_rate: float
    participation: float = 1.0

    def dpsgd(self, exposed: Exposed) -> float | None:
        """Returns the epsilon of the trained model towards single samples; None without this mechanism."""
        spec = self.privacy.dpsgd
        if spec is None or spec.noise_multiplier is None:
            return None
        return gaussian_epsilon(spec.noise_multiplier, self.sample_rate, exposed.iterations, spec.delta)

    def activations(self, exposed: Exposed) -> float | None:
        """Returns the epsilon of a sample's activations towards the server, all its releases together.

        Any two activations differ by at most twice the norm to which they are clipped. A sample is released
        at most once in an epoch; with Poisson sampling, at most in each mini-batch.
        """
        spec = self.privacy.activations
        if spec is None:
            return None
        poisson = self.privacy.dpsgd is not None and self.privacy.dpsgd.sampling == POISSON
        releases = exposed.released if poisson else exposed.epochs
        noise = spec.noise_multiplier / 2
        if spec.distribution == LAPLACE:
            return laplace_epsilon(noise, releases)
        return gaussian_epsilon(noise, 1.0, releases, spec.delta)

    def updates(self, exposed: Exposed) -> float | None:
        """Returns the epsilon of the trained model towards whole devices; None without this mechanism."""
        spec = self.privacy.updates
        if spec is None:
            return None
        return gaussian_epsilon(spec.noise_multiplier, self.participation, exposed.rounds, spec.delta)


class Ledger:
    """Counts how often the devices' data was used, and makes the account.

    Args:
        accounts: accounts of the devices, in the order of their numbers.
    """

    def __init__(self, accounts: Sequence[Account]) -> None:
        self._accounts = tuple(accounts)
        self._exposed = [Exposed() for _ in accounts]

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

    def averaged(self) -> None:
        """Notes an average, in which any device could have taken part."""
        self._exposed = [replace(exposed, rounds=exposed.rounds + 1) for exposed in self._exposed]

    def epsilons(self) -> dict[str, tuple[float, ...] | None]:
        """Returns the epsilons of all devices by columns of results.csv; None where no device has one."""
        pairs = list(zip(self._accounts, self._exposed, strict=True))
        return {
            "epsilon_dpsgd": _of_all([account.dpsgd(exposed) for account, exposed in pairs]),
            "epsilon_activations": _of_all([account.activations(exposed) for account, exposed in pairs]),
            "epsilon_updates": _of_all([account.updates(exposed) for account, exposed in pairs]),
        }

    def state(self) -> list[dict[str, int]]:
        """Returns the counts, for checkpoints."""
        return [asdict(exposed) for exposed in self._exposed]

    def load(self, state: Sequence[Mapping[str, int]]) -> None:
        """Goes on from what `state` returned; empty at the beginning of training."""
        for index, counts in enumerate(state):
            self._exposed[index] = Exposed(**counts)


def _of_all(values: Sequence[float | None]) -> tuple[float, ...] | None:
    """The figures of all devices, infinite for devices without the mechanism; None if none has it."""
    if all(value is None for value in values):
        return None
    return tuple(math.inf if value is None else value for value in values)
