"""DP-SGD (Abadi et al., CCS 2016, Algorithm 1) on one half of a network."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from pipar_rpc.base.errors import ConfigError, UserError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.privacy.gradients import NOTHING, PLAIN, Clipped, Count, Gradients
from pipar_rpc.privacy.noise import PrivacyNoise
from pipar_rpc.privacy.sample_gradients import SampleGradients
from pipar_rpc.privacy.samplers import KEY
from pipar_rpc.privacy.spec import POISSON, PrivacySpec

Loss = Callable[[Tensor, Tensor], Tensor]
ALIKE = "needs a loss in which all samples count alike, without class weights and ignored labels"


def half_norm(max_norm: float, trained: Sequence[int], own: slice) -> float:
    """Returns the norm to which a sample's gradient is clipped on one half.

    Both halves know it without a message: the square of the whole norm C is shared out in proportion to the
    numbers in the parameters that train, C_half^2 = C^2 * own / all. So the squares of the halves add up to
    C^2, and no gradient of the whole network is longer than C.

    Args:
        max_norm: C.
        trained: numbers in the trained parameters of each of the Q cut units.
        own: the units of the half.
    """
    return max_norm * float((sum(trained[own]) / sum(trained)) ** 0.5)


def gradients_of(
    privacy: PrivacySpec,
    layers: nn.Module,
    clip_norm: float,
    batch_size: int,
    seed: int,
    device: int,
) -> Gradients:
    """Makes what becomes of the gradients of a half, by the mechanisms of its device.

    Args:
        privacy: mechanisms.
        layers: the half.
        clip_norm: norm to which a sample's gradient is clipped on this half.
        batch_size: B.
        seed: seed of the experiment.
        device: number of the device, 1..K.
    """
    spec = privacy.dpsgd
    if spec is None:
        return PLAIN
    assert spec.noise_multiplier is not None, "the plan finds it before anything is built"
    noise = PrivacyNoise(seed, privacy.secure_noise, "dpsgd", device)
    expected = batch_size if spec.sampling == POISSON else None
    return DpGradients(layers, clip_norm, spec.noise_multiplier * spec.max_grad_norm, noise, expected)


def timed_gradients(layers: nn.Module) -> Gradients:
    """Does for layers of a network that is only timed what DP-SGD does."""
    return DpGradients(layers, 1.0, 1.0, PrivacyNoise(0, False, "timed"))


class DpGradients:
    """Clips the gradient of each sample, adds them up and adds noise once for each mini-batch.

    With g_i the gradient of sample i's own loss on this half, the optimiser gets
    (sum_i g_i * min(1, clip_norm / ||g_i||) + noise_std * z) / B, with z of the standard normal distribution.
    Neither P nor N changes z, which is drawn by the names of the parameters.

    Args:
        layers: the half.
        clip_norm: L2 norm to which the gradient of a sample is clipped, over all parameters of the half.
        noise_std: standard deviation of the noise, on the sum.
        noise: source of the noise.
        expected: B where mini-batches are drawn at random; None to divide by the size that they have.
    """

    def __init__(
        self,
        layers: nn.Module,
        clip_norm: float,
        noise_std: float,
        noise: PrivacyNoise,
        expected: int | None = None,
    ) -> None:
        self._samples = SampleGradients(layers)
        self._parameters = {name: own for name, own in layers.named_parameters() if own.requires_grad}
        self._clip_norm, self._noise_std, self._noise = clip_norm, noise_std, noise
        self._expected, self._size, self._clipped = expected, 0, NOTHING

    def watched(self) -> AbstractContextManager[None]:
        """See `SampleGradients.watched`."""
        return self._samples.watched()

    def after(self, part: Part) -> None:
        """Adds the clipped gradients of a micro-batch to those of the parameters.

        The loss of a micro-batch is its mean times |part| / B, so what a sample adds to its gradient is its
        own gradient over B.
        """
        found = self._samples.take()
        if part.index == 1:
            self._size = 0
        if not found:
            return
        squares = [own.squared_norms() for own in found.values()]
        size = len(squares[0])
        if any(len(own) != size for own in squares):
            raise UserError(
                f"{KEY}: a layer whose input is not one of each sample has no gradients of samples"
            )
        scale = round(size / part.weight)
        norms = torch.stack(squares).sum(0).sqrt() * scale
        weights = (self._clip_norm / norms).clamp(max=1) * scale
        for parameter, own in found.items():
            clipped = own.weighted_sum(weights)
            parameter.grad = clipped if parameter.grad is None else parameter.grad.add_(clipped)
        self._size += size
        self._clipped = Clipped(
            self._clipped.samples + int((norms > self._clip_norm).sum()), self._clipped.of + size
        )

    def finish(self, part: Part) -> None:
        """Adds the noise of a mini-batch, also where it had no sample, and divides by its size."""
        size = self._expected or self._size
        for name, own in self._parameters.items():
            total = torch.zeros_like(own) if own.grad is None else own.grad
            if self._noise_std:
                drawn = self._noise.gaussian(own.shape, part.epoch, part.iteration, name)
                total.add_(drawn.to(own), alpha=self._noise_std)
            own.grad = total.div_(size)

    def counting(self, count: Count) -> Count:
        """Returns the function, which raises UserError where samples do not count alike."""

        def checked(labels: Tensor) -> float:
            counted = count(labels)
            if counted not in {len(labels), labels.numel()}:
                raise UserError(f"{KEY}: {ALIKE}; {counted:g} count among {len(labels)} samples")
            return counted

        return checked

    def drain(self) -> Clipped:
        """See `Gradients.drain`."""
        drained, self._clipped = self._clipped, NOTHING
        return drained


def check_alike(called: str, loss: Loss, count: Count, outputs: Tensor, labels: Tensor) -> None:
    """Raises ConfigError unless a loss is the mean of the samples' own losses.

    Args:
        called: name of the loss, for the error.
        loss: the loss.
        count: how much counts in labels.
        outputs: outputs of the network, shape [b, ...].
        labels: labels, shape [b, ...].
    """
    singles = [slice(index, index + 1) for index in range(len(labels))]
    each = torch.stack([loss(outputs[own], labels[own]) for own in singles])
    same = {count(labels[own]) for own in singles}
    mean = torch.isclose(each.mean(), loss(outputs, labels), rtol=1e-4)
    if len(same) > 1 or count(labels) not in {len(labels), labels.numel()} or not mean:
        without = "no class weights (loss.args.weight), no ignored labels (loss.args.ignore_index)"
        raise ConfigError("loss", called, f"one whose samples count alike with {KEY}: {without}")
