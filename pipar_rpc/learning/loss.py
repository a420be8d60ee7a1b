"""The training loss, exact for every number of micro-batches.

A mini-batch's loss is a quotient: a sum over what counts (samples, class weights, tokens that are not
ignored) divided by how much counts in the whole mini-batch. A micro-batch contributes its own mean, weighted
by its share of what counts, so that N gradients add up to the gradient of the whole mini-batch.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line

KEY = "loss"
LOSSES: dict[str, type[nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "nll": nn.NLLLoss,
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "huber": nn.HuberLoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
}
ELEMENTWISE = (  # compare numbers with numbers: there are no classes
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss),
    *(nn.PoissonNLLLoss, nn.SoftMarginLoss),
)
TENSORS = ("weight", "pos_weight")  # arguments of torch's losses that are lists in a configuration


@dataclass(frozen=True)
class LossSpec(dotted.Choice):
    """All that is needed to make a loss; plain data, with a name of `LOSSES`."""

    name: str = "cross_entropy"


class Criterion:
    """A loss with what it divides by.

    Losses of the user's own are called as `loss(outputs, labels)` and return a scalar: the mean over the
    samples, or, if they have a method `count(labels)`, the mean over what that counts.

    Args:
        spec: loss.
        device: torch device that computes.

    Raises:
        UserError: no such loss, it failed, or it does not return means.
    """

    def __init__(self, spec: LossSpec, device: torch.device | None = None) -> None:
        self._loss = _make(spec)
        if isinstance(self._loss, nn.Module):
            self._loss.to(device)
        count = getattr(self._loss, "count", None)
        self._count: Callable[[Tensor], float] = count if callable(count) else _counting(self._loss)
        self._ignored = getattr(self._loss, "ignore_index", None)
        self._classes = not isinstance(self._loss, ELEMENTWISE)

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean over what counts: a scalar. Where nothing does, it may be NaN: see `of_part`.

        Args:
            outputs: the network's outputs, shape [b, ...].
            labels: whatever the data set gives, shape [b, ...].
        """
        mean: Tensor = self._loss(outputs, labels)
        return mean

    def of_part(self, outputs: Tensor, labels: Tensor, weight: float) -> Tensor:
        """The loss of a micro-batch: where nothing counts in it (`weight` 0), 0, with gradients of 0."""
        return self(outputs, labels) if weight else (outputs * 0).sum()

    def count(self, labels: Tensor) -> float:
        """How much counts in a batch: what its loss is divided by."""
        return self._count(labels)

    def num_classified(self, labels: Tensor) -> int:
        """Number of class numbers among the labels that are not ignored; 0 where labels are none."""
        if labels.is_floating_point() or not self._classes:
            return 0
        return labels.numel() if self._ignored is None else int((labels != self._ignored).sum())

    def num_correct(self, outputs: Tensor, labels: Tensor) -> int:
        """Number of these labels whose class has the largest output, along the outputs' second dimension."""
        return int(self.correct(outputs, labels))

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor | int:
        """As `num_correct`, a scalar where the outputs are, which nobody has waited for."""
        if labels.is_floating_point() or not self._classes or outputs.dim() != labels.dim() + 1:
            return 0
        right = outputs.argmax(dim=1) == labels
        return (right if self._ignored is None else right & (labels != self._ignored)).sum()


def check_loss(spec: LossSpec, outputs: Tensor, labels: Tensor) -> None:
    """Tries the loss with outputs of the network's shape and labels of the data set.

    Raises:
        UserError: the loss cannot be made, does not fit, or does not return a finite or infinite scalar.
    """
    criterion, outputs = Criterion(spec), outputs.detach().requires_grad_()
    shapes = f"outputs of shape {tuple(outputs.shape)} and labels of shape {tuple(labels.shape)}"
    try:
        with warnings.catch_warnings():  # torch's losses would broadcast, and N change what is minimised
            warnings.filterwarnings("error", message="Using a target size")
            loss, _ = criterion(outputs, labels), criterion.count(labels)
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{KEY}={spec.called} cannot take {shapes}: {why}") from error
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        raise UserError(f"{KEY}={spec.called}: must return a scalar tensor with a gradient, for {shapes}")


def _make(spec: LossSpec) -> Callable[[Tensor, Tensor], Tensor]:
    args = {name: _tensor(name, value) for name, value in spec.args.items()}
    made = dotted.make(KEY, replace(spec, args=args), LOSSES, {})
    if not callable(made):
        what = f"a class or function that makes a loss, not {type(made).__name__}"
        raise ConfigError(f"{KEY}._target_", spec.target, what)
    reduction = getattr(made, "reduction", "mean")
    if reduction != "mean":
        raise ConfigError(
            f"{KEY}.args.reduction", reduction, "mean: micro-batches are weighted by their share"
        )
    loss: Callable[[Tensor, Tensor], Tensor] = made
    return loss


def _tensor(name: str, value: Any) -> Any:
    """Weights that are a list of numbers, as a tensor."""
    numbers = isinstance(value, list | tuple) and all(isinstance(number, int | float) for number in value)
    return torch.tensor([float(number) for number in value]) if name in TENSORS and numbers else value


def _counting(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], float]:
    """What torch's losses divide by; samples for all whose samples count alike."""
    if not isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        return len

    def count(labels: Tensor) -> float:
        if labels.is_floating_point():  # probabilities of the classes
            return len(labels)
        counts = labels != loss.ignore_index
        if loss.weight is None:
            return int(counts.sum())
        return float(loss.weight.cpu().double()[labels[counts]].sum())

    return count
