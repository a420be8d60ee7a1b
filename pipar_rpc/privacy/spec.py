"""The privacy mechanisms of a job, as plain data that can be sent to devices.

docs/privacy.md says what each protects from whom.
"""

from dataclasses import dataclass

from pipar_rpc.base import dotted

GAUSSIAN, LAPLACE = "gaussian", "laplace"
SHUFFLE, POISSON = "shuffle", "poisson"


@dataclass(frozen=True)
class DpSgdSpec:
    """DP-SGD (Abadi et al., 2016) over both halves of a device's network.

    Attributes:
        max_grad_norm: L2 norm C to which the gradient of a sample is clipped.
        noise_multiplier: standard deviation of the noise on the sum of gradients as a multiple of C; None
            while it is still to be found from `target_epsilon`.
        target_epsilon: epsilon after which training ends; None for no limit.
        delta: delta of the account.
        sampling: way in which mini-batches are drawn, "shuffle" or "poisson".
    """

    max_grad_norm: float
    noise_multiplier: float | None
    target_epsilon: float | None
    delta: float
    sampling: str = SHUFFLE


@dataclass(frozen=True)
class ActivationNoiseSpec:
    """Noise on what leaves a device.

    Attributes:
        max_norm: norm C to which the activation of a sample is clipped: L2 for Gaussian, L1 for Laplace.
        noise_multiplier: standard deviation of Gaussian noise, or scale of Laplace noise, as a multiple of C.
        distribution: distribution of the noise, "gaussian" or "laplace".
        delta: delta of the account; Laplace noise needs none.
    """

    max_norm: float
    noise_multiplier: float
    distribution: str = GAUSSIAN
    delta: float = 1e-5


@dataclass(frozen=True)
class UpdateNoiseSpec:
    """Noise on the average of the devices' updates (McMahan et al., 2018).

    Attributes:
        max_norm: L2 norm C to which the update of a device is clipped.
        noise_multiplier: standard deviation of the noise on the sum of updates as a multiple of C.
        delta: delta of the account.
    """

    max_norm: float
    noise_multiplier: float
    delta: float = 1e-5


@dataclass(frozen=True)
class PrivacySpec:
    """The mechanisms of one device; None, 0 or no name for those that are off.

    Attributes:
        dpsgd: clipping and noise of gradients.
        activations: clipping and noise of activations.
        nopeek: weight of the distance correlation between input and activation in the device's loss.
        cut: mechanism of the user's at the cut.
        updates: clipping and noise of the devices' updates, the same for all devices.
        secure_noise: whether noise comes from the system's entropy instead of the seed.
    """

    dpsgd: DpSgdSpec | None = None
    activations: ActivationNoiseSpec | None = None
    nopeek: float = 0.0
    cut: dotted.Choice | None = None
    updates: UpdateNoiseSpec | None = None
    secure_noise: bool = False

    @property
    def poisson(self) -> bool:
        """Whether mini-batches are drawn by Poisson sampling."""
        return self.dpsgd is not None and self.dpsgd.sampling == POISSON

    @property
    def label(self) -> str:
        """The mechanisms that are on, as results name them; empty for none."""
        mechanisms = {
            "dpsgd": self.dpsgd,
            "activations": self.activations,
            "nopeek": self.nopeek,
            "cut": self.cut,
            "updates": self.updates,
        }
        return "+".join(name for name, on in mechanisms.items() if on)

    @property
    def changes_activations(self) -> bool:
        """Whether something else leaves the device than its activations."""
        return self.activations is not None or self.cut is not None

    @property
    def idle_at_cut(self) -> bool:
        """Whether nothing is computed at the cut."""
        return not (self.changes_activations or self.nopeek)


NO_PRIVACY = PrivacySpec()
