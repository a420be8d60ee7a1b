"""Differential privacy in numbers: the epsilon that noise gives, and the noise that an epsilon needs.

Both come from Opacus, an optional dependency (`pip install pipar_rpc[privacy]`): Renyi differential privacy
of the subsampled Gaussian mechanism (Mironov et al., 2019), converted to (epsilon, delta).
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from pipar_rpc.base.errors import UserError

EXTRA = "pipar_rpc[privacy]"


def require_opacus(key: str) -> None:
    """Raises UserError unless Opacus can be imported.

    Args:
        key: configuration key of the mechanism that needs it, for the error.
    """
    try:
        import opacus.accountants  # noqa: F401
    except ImportError as error:
        raise UserError(f"{key}: its account needs Opacus: pip install '{EXTRA}' ({error})") from error


def gaussian_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Returns the epsilon of so many steps of the subsampled Gaussian mechanism.

    Args:
        noise_multiplier: standard deviation of the noise over the sensitivity of what it covers; 0 for none.
        sample_rate: probability that a step sees a sample, above 0 and at most 1.
        steps: number of steps.
        delta: delta, above 0 and below 1.

    Returns:
        Epsilon; 0 for no step, infinity without noise.
    """
    return composed_epsilon(noise_multiplier, ((sample_rate, steps),), delta)


@cache
def composed_epsilon(noise_multiplier: float, steps: tuple[tuple[float, int], ...], delta: float) -> float:
    """Returns the epsilon of steps of the Gaussian mechanism that are not all subsampled alike.

    Args:
        noise_multiplier: as of `gaussian_epsilon`.
        steps: pairs of a sample rate and the number of steps with it.
        delta: delta, above 0 and below 1.
    """
    taken = [(noise_multiplier, rate, count) for rate, count in steps if count]
    if not taken:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = taken
    with _quiet():
        return float(accountant.get_epsilon(delta))


def laplace_epsilon(noise_multiplier: float, releases: int) -> float:
    """Returns the epsilon (with delta 0) of so many releases under Laplace noise: they add up.

    Args:
        noise_multiplier: scale of the noise over the sensitivity in the L1 norm; 0 for none.
        releases: number of releases.
    """
    if releases == 0:
        return 0.0
    return math.inf if noise_multiplier == 0 else releases / noise_multiplier


@cache
def noise_for(key: str, target_epsilon: float, sample_rate: float, steps: int, delta: float) -> float:
    """Finds the least noise multiplier with which so many steps stay within an epsilon, by Opacus' search.

    Args:
        key: configuration key of the target, for the error.
        target_epsilon: epsilon, above 0.
        sample_rate: probability that a step sees a sample, above 0 and at most 1.
        steps: number of steps, at least 1.
        delta: delta, above 0 and below 1.

    Raises:
        UserError: no noise is enough.
    """
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _quiet():
            return float(
                get_noise_multiplier(
                    target_epsilon=target_epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant="rdp",
                )
            )
    except ValueError as error:
        raise UserError(
            f"{key}={target_epsilon:g}: no noise keeps {steps} steps within it: {error}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out Opacus' warning that another order of the Renyi divergence might give a smaller epsilon."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield
