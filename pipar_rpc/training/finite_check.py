"""Checks that a mini-batch leaves finite numbers in a server half, and undoes the mini-batch if not."""

import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from pipar_rpc.base.errors import LostError
from pipar_rpc.base.gpu import Later
from pipar_rpc.base.microbatch import Part


class FiniteCheck:
    """Checks one mini-batch; to be made before its first micro-batch.

    The methods raise a LostError if a number is not finite. The layers are then as they were before the
    mini-batch: other devices may go on with them.

    Args:
        layers: the server half.
    """

    def __init__(self, layers: nn.Module) -> None:
        self._layers = layers
        self._before = [buffer.clone() for buffer in layers.buffers()]
        self._unread: list[tuple[Part, Later[tuple[float, int]]]] = []

    def loss(self, part: Part, told: tuple[float, int] | Later[tuple[float, int]]) -> None:
        """Checks the loss of a micro-batch, at once or, if it is not there yet, in `losses`.

        Args:
            part: place of the micro-batch.
            told: loss, and number of correct predictions.
        """
        if isinstance(told, Later):
            self._unread.append((part, told))
        elif not math.isfinite(told[0]):
            self._refuse(part, f"the loss is {told[0]}")

    def losses(self) -> None:
        """Checks the losses that were not there yet; to be called after the last micro-batch."""
        unread, self._unread = self._unread, []
        for part, told in unread:
            self.loss(part, told.wait())

    def gradients(self, part: Part) -> None:
        """Checks gradients and running statistics, which may overflow while the loss is finite."""
        gradients = [weight.grad for weight in self._layers.parameters() if weight.grad is not None]
        buffers = zip(self._layers.buffers(), self._before, strict=True)
        changed = [_changed_sum(*both) if both[0].is_cuda else _changed(*both) for both in buffers]
        if not _finite([*gradients, *(found for found in changed if found is not None)]):
            self._refuse(part, "a gradient or a running statistic is not finite")

    def undo(self) -> None:
        """Undoes what the mini-batch has done so far: running statistics and gradients."""
        self.undo_statistics()
        self._layers.zero_grad()

    def undo_statistics(self) -> None:
        """Undoes what was done to running statistics since this was made."""
        with torch.no_grad():
            for buffer, before in zip(self._layers.buffers(), self._before, strict=True):
                buffer.copy_(before)

    def _refuse(self, part: Part, reason: str) -> NoReturn:
        self.undo()
        raise not_finite(part, reason)


def not_finite(part: Part, reason: str) -> LostError:
    """The error of a device whose numbers are not finite."""
    where = f"epoch {part.epoch}, iteration {part.iteration}, micro-batch {part.index}/{part.count}"
    return LostError(f"{reason} in {where}: a smaller optimizer.lr may help")


def _changed(now: Tensor, before: Tensor) -> Tensor | None:
    """A buffer that has changed, which masks of -inf have not; otherwise None."""
    return None if torch.equal(now, before) else now


def _changed_sum(now: Tensor, before: Tensor) -> Tensor:
    """The sum of a buffer that has changed, otherwise 0: without a look at it, for which a GPU would stop."""
    total = now.sum().double()
    return torch.where((now != before).any(), total, torch.zeros_like(total))


def _finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers are finite; their sum tells, in a tenth of the time of a look at each."""
    return not tensors or math.isfinite(float(torch.stack([t.sum().double() for t in tensors]).sum()))
