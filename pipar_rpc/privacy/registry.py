"""The mechanisms at the cut of a device, made from plain data; those of the user's own are tried first."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.privacy.activations import ActivationNoise
from pipar_rpc.privacy.cut import CutMechanism, CutPrivacy
from pipar_rpc.privacy.noise import PrivacyNoise
from pipar_rpc.privacy.nopeek import NoPeek
from pipar_rpc.privacy.spec import PrivacySpec

KEY = "privacy.cut"
SAMPLES = 4  # on which a mechanism of the user's is tried


def build_cut_privacy(spec: PrivacySpec, seed: int = 0, rank: int = 0) -> CutPrivacy:
    """The mechanisms that are on, in this order: NoPeek, the user's own, noise on activations.

    Args:
        spec: mechanisms of the device.
        seed: seed of the experiment.
        rank: number of the device; 0 for what is only tried, timed or evaluated.

    Raises:
        UserError: the user's own cannot be made.
    """
    mechanisms: list[CutMechanism] = []
    if spec.nopeek:
        mechanisms.append(NoPeek(spec.nopeek))
    if spec.cut is not None:
        mechanisms.append(_own(spec.cut, PrivacyNoise(seed, spec.secure_noise, "cut", rank)))
    if spec.activations is not None:
        noise = PrivacyNoise(seed, spec.secure_noise, "activations", rank)
        mechanisms.append(ActivationNoise(spec.activations, noise))
    return CutPrivacy(mechanisms)


class OwnMechanism:
    """A mechanism of the user's: its mistakes become one line.

    Args:
        mechanism: the user's object.
        target: its dotted name.
    """

    def __init__(self, mechanism: CutMechanism, target: str) -> None:
        self._mechanism, self._name = mechanism, f"{KEY}._target_={target}"

    def release(self, part: Part, activation: Tensor) -> Tensor:
        """What the user's mechanism lets out; raises UserError."""
        released: Tensor = dotted.run(self._name, self._mechanism.release, (part, activation), {})
        return released

    def loss(self, part: Part, inputs: Tensor, activation: Tensor) -> Tensor | None:
        """What it adds to the loss; raises UserError."""
        term: Tensor | None = dotted.run(self._name, self._mechanism.loss, (part, inputs, activation), {})
        return term


def _own(choice: dotted.Choice, noise: PrivacyNoise) -> OwnMechanism:
    """Makes the user's; it gets `noise` if it has a parameter for it."""
    target = choice.target or ""
    made = dotted.call(f"{KEY}._target_", target, {"noise": noise}, choice.args)
    if not isinstance(made, CutMechanism):
        what = f"with the methods release and loss, not {type(made).__name__}"
        raise ConfigError(f"{KEY}._target_", target, f"a function that returns a mechanism, {what}")
    return OwnMechanism(made, target)


def check_own(choice: dotted.Choice, inputs: Tensor, shape: Sequence[int], adds_loss: bool) -> None:
    """Tries the user's mechanism on a few random activations.

    Args:
        choice: the mechanism.
        inputs: some of the network's inputs, shape [b, ...], at least two.
        shape: shape of one sample's activation.
        adds_loss: whether it may add to the loss.

    Raises:
        UserError: it cannot be made, fails, or does not do what a mechanism must.
    """
    own = _own(choice, PrivacyNoise(0, False, "check"))
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(inputs), *shape, generator=generator, dtype=torch.get_default_dtype())
    wrong = _wrong_release(own, values) or _wrong_loss(own, inputs, values, adds_loss)
    if wrong is not None:
        raise ConfigError(f"{KEY}._target_", choice.target, f"a mechanism {wrong}")


def _wrong_release(own: OwnMechanism, values: Tensor) -> str | None:
    leaf, one = values.clone().requires_grad_(), _part(0)
    whole = own.release(one, leaf)
    if not isinstance(whole, Tensor) or (whole.shape, whole.dtype) != (values.shape, values.dtype):
        shown = f"{whole.dtype} of shape {list(whole.shape)}" if isinstance(whole, Tensor) else type(whole)
        return f"that releases {values.dtype} of shape {list(values.shape)}, not {shown}"
    if not whole.requires_grad or torch.autograd.grad(whole.sum(), leaf, allow_unused=True)[0] is None:
        return "that releases a function of the activation, with a gradient"
    halves = [own.release(_part(first), part) for first, part in ((0, values[:1]), (1, values[1:]))]
    if not torch.allclose(torch.cat(halves), whole.detach(), rtol=1e-4, atol=1e-5):
        return "that treats each sample by itself, and draws what is random from `noise`, by part.first"
    return None


def _wrong_loss(own: OwnMechanism, inputs: Tensor, values: Tensor, adds_loss: bool) -> str | None:
    leaf = values.clone().requires_grad_()
    term = own.loss(_part(0), inputs, leaf)
    if term is None:
        return None
    if not isinstance(term, Tensor) or term.dim() or not term.requires_grad:
        return "whose loss is None or a scalar tensor with a gradient"
    return (
        None
        if adds_loss
        else "without a loss of its own, with privacy.dpsgd: one sample could change others'"
    )


def _part(first: int) -> Part:
    return Part(1, 0, 1, 1, 1.0, first)
