"""The configuration of privacy mechanisms: `privacy`. docs/privacy.md says what each protects from whom."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import require
from pipar_rpc.privacy import spec


def _check_delta(key: str, delta: float) -> None:
    require(0 < delta < 1, f"{key}.delta", delta, "above 0 and below 1")


def _check_noise(key: str, noise: float | None) -> None:
    allowed = noise is None or 0 <= noise < float("inf")
    require(allowed, f"{key}.noise_multiplier", noise, "0 or more and finite, or null for none")


def _check_norm(key: str, norm: float) -> None:
    require(0 < norm < float("inf"), key, norm, "above 0 and finite")


class Sampling(StrEnum):
    """Ways in which mini-batches are drawn."""

    shuffle = spec.SHUFFLE
    poisson = spec.POISSON


class Distribution(StrEnum):
    """Distributions of noise."""

    gaussian = spec.GAUSSIAN
    laplace = spec.LAPLACE


@dataclass
class DpSgdConfig:
    """Clipping and noise of gradients; off if neither noise nor a target is given."""

    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    max_grad_norm: float = 1.0
    delta: float = 1e-5
    sampling: Sampling = Sampling.shuffle

    def __post_init__(self) -> None:
        key, target = "privacy.dpsgd", self.target_epsilon
        _check_noise(key, self.noise_multiplier)
        require(target is None or target > 0, f"{key}.target_epsilon", target, "above 0, or null for none")
        one = target is None or self.noise_multiplier is None
        require(
            one,
            f"{key}.target_epsilon",
            target,
            "null with privacy.dpsgd.noise_multiplier: it decides the noise",
        )
        _check_norm(f"{key}.max_grad_norm", self.max_grad_norm)
        _check_delta(key, self.delta)

    @property
    def spec(self) -> spec.DpSgdSpec | None:
        """The mechanism as plain data; None if it is off."""
        if self.noise_multiplier is None and self.target_epsilon is None:
            return None
        how = (self.noise_multiplier, self.target_epsilon, self.delta, self.sampling.value)
        return spec.DpSgdSpec(self.max_grad_norm, *how)


@dataclass
class ActivationNoiseConfig:
    """Clipping and noise of activations; off without a noise multiplier."""

    noise_multiplier: float | None = None
    max_norm: float = 1.0
    distribution: Distribution = Distribution.gaussian
    delta: float = 1e-5

    def __post_init__(self) -> None:
        key = "privacy.activations"
        _check_noise(key, self.noise_multiplier)
        _check_norm(f"{key}.max_norm", self.max_norm)
        _check_delta(key, self.delta)

    @property
    def spec(self) -> spec.ActivationNoiseSpec | None:
        """The mechanism as plain data; None if it is off."""
        if self.noise_multiplier is None:
            return None
        return spec.ActivationNoiseSpec(
            self.max_norm, self.noise_multiplier, self.distribution.value, self.delta
        )


@dataclass
class UpdateNoiseConfig:
    """Clipping and noise of the devices' updates; off without a noise multiplier."""

    noise_multiplier: float | None = None
    max_norm: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        key = "privacy.updates"
        _check_noise(key, self.noise_multiplier)
        _check_norm(f"{key}.max_norm", self.max_norm)
        _check_delta(key, self.delta)

    @property
    def spec(self) -> spec.UpdateNoiseSpec | None:
        """The mechanism as plain data; None if it is off."""
        if self.noise_multiplier is None:
            return None
        return spec.UpdateNoiseSpec(self.max_norm, self.noise_multiplier, self.delta)


@dataclass
class NoPeekConfig:
    """Distance correlation between input and activation as a further loss of the device."""

    weight: float = 0.0

    def __post_init__(self) -> None:
        require(self.weight >= 0, "privacy.nopeek.weight", self.weight, "0 or more (0: off)")


@dataclass
class CutMechanismConfig:
    """A mechanism of the user's at the cut."""

    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self._target_ is not None or not self.args, "privacy.cut.args", self.args, "empty")


@dataclass
class PrivacyConfig:
    """All mechanisms; they are off unless they are asked for."""

    dpsgd: DpSgdConfig = field(default_factory=DpSgdConfig)
    activations: ActivationNoiseConfig = field(default_factory=ActivationNoiseConfig)
    nopeek: NoPeekConfig = field(default_factory=NoPeekConfig)
    cut: CutMechanismConfig = field(default_factory=CutMechanismConfig)
    updates: UpdateNoiseConfig = field(default_factory=UpdateNoiseConfig)
    secure_noise: bool = False

    @property
    def spec(self) -> spec.PrivacySpec:
        """The mechanisms as plain data."""
        own = dotted.Choice(target=self.cut._target_, args=self.cut.args) if self.cut._target_ else None
        return spec.PrivacySpec(
            dpsgd=self.dpsgd.spec,
            activations=self.activations.spec,
            nopeek=self.nopeek.weight,
            cut=own,
            updates=self.updates.spec,
            secure_noise=self.secure_noise,
        )
