"""What a device does with its activations before they leave it, besides coding them: the seam at the cut.

A further mechanism is a class with the methods of `CutMechanism`; `build_cut_privacy` puts those that are on
in order. Each sees what the mechanisms before it made of the activation; what leaves is then encoded.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipar_rpc.base.microbatch import Part


@runtime_checkable
class CutMechanism(Protocol):
    """A mechanism at the cut; autograd differentiates what it computes."""

    def release(self, part: Part, activation: Tensor) -> Tensor:
        """What leaves the device in the activation's place: same shape and type, a function of it.

        Each sample is treated by itself, so that the number of micro-batches does not matter.

        Args:
            part: place of the micro-batch; `part.first` is its first sample's number in the mini-batch.
            activation: shape [b, ...]. It may not be changed in place.
        """
        ...

    def loss(self, part: Part, inputs: Tensor, activation: Tensor) -> Tensor | None:
        """A further term of the device's loss, a scalar; None if there is none.

        It is weighted by the micro-batch's share of the mini-batch, as the loss is.

        Args:
            part: place of the micro-batch within the mini-batch.
            inputs: the network's input, shape [b, ...].
            activation: what the device half makes of it, before any mechanism: shape [b, ...].
        """
        ...


class Released(NamedTuple):
    """An activation that leaves the device, and the way back for its gradient.

    Attributes:
        values: what leaves.
        gradient: function from the gradient with respect to what left to that with respect to the activation,
            the loss's further terms included; to be called at most once.
    """

    values: Tensor
    gradient: Callable[[Tensor], Tensor]


class CutPrivacy:
    """The mechanisms of one device, one after the other.

    Args:
        mechanisms: mechanisms in the order in which they see the activation; none by default.

    Attributes:
        idle: whether there are none.
    """

    def __init__(self, mechanisms: Sequence[CutMechanism] = ()) -> None:
        self._mechanisms = tuple(mechanisms)
        self.idle = not mechanisms

    def release(self, part: Part, inputs: Tensor, activation: Tensor) -> Released:
        """Makes of an activation what may leave.

        Args:
            part: place of the micro-batch within the mini-batch.
            inputs: the network's input, shape [b, ...].
            activation: output of the device half, shape [b, ...]; a gradient is wanted if it requires one.
        """
        if self.idle:
            return Released(activation, _as_it_is)
        leaf = activation.detach().requires_grad_(activation.requires_grad)
        values = leaf
        for mechanism in self._mechanisms:
            values = mechanism.release(part, values)
        return Released(values, partial(self._gradient, part, inputs, leaf, values))

    def _gradient(
        self, part: Part, inputs: Tensor, activation: Tensor, values: Tensor, received: Tensor
    ) -> Tensor:
        """The gradient of <received, values> + the part's share * the loss's further terms."""
        outputs, weights = [values], [received]
        for mechanism in self._mechanisms:
            term = mechanism.loss(part, inputs, activation)
            if term is not None:
                outputs.append(term)
                weights.append(torch.full_like(term, part.weight))
        (gradient,) = torch.autograd.grad(outputs, activation, weights)
        return gradient


def _as_it_is(received: Tensor) -> Tensor:
    return received
