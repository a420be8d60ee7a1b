"""What crosses at a cut, sample by sample, as the server and whoever listens see it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.random_streams import generator
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.leakage.noise import clip_and_noise
from pipar_rpc.learning import Criterion

BATCH_SIZE = 100


@dataclass(frozen=True)
class Crossing:
    """How activations leave the device.

    Attributes:
        split_point: P.
        coding: codecs of activations and gradients.
        max_norm: L2 norm to which each sample's activation is clipped where noise is added.
        noise: standard deviation of the noise as a multiple of `max_norm`; 0 for activations as they are,
            which are then not clipped either.
    """

    split_point: int
    coding: CodingSpec
    max_norm: float
    noise: float

    def protect(self, activations: Tensor, rng: torch.Generator) -> Tensor:
        """Activations, shape [b, ...], as they leave, before they are encoded."""
        return clip_and_noise(activations, self.max_norm, self.noise, rng) if self.noise else activations


@dataclass(frozen=True)
class Observation:
    """What was seen of n samples.

    Attributes:
        activations: as the server decodes them, shape [n, ...].
        cut_gradients: gradients of the loss that return to the device, as it decodes them; their shape.
        tail_gradients: gradients with respect to the output of the units before the last `tail_units`, shape
            [n, ...], coded alike: what a device that keeps labels and last units sends. None if these units
            begin before the cut.
        outputs: outputs of the network, shape [n, ...].
    """

    activations: Tensor
    cut_gradients: Tensor
    tail_gradients: Tensor | None
    outputs: Tensor


def device_activations(network: nn.Sequential, split_point: int, inputs: Tensor) -> Tensor:
    """The output of units 1..P, in evaluation mode, as it is before anything is done to it."""
    with torch.no_grad():
        return torch.cat([network[:split_point](some) for some in inputs.split(BATCH_SIZE)])


def observe(
    network: nn.Sequential,
    activations: Tensor,
    labels: Tensor,
    crossing: Crossing,
    criterion: Criterion,
    tail_units: int,
    seed: int,
) -> Observation:
    """Sends activations to the server half, and gradients back; nothing is trained.

    The network is in evaluation mode, so that each sample is treated alone. A sample's gradient is its row of
    that of the mean loss of a batch of 100, as it crosses.

    Args:
        network: the uncut network, Q units, in evaluation mode.
        activations: outputs of its units 1..P, shape [n, ...].
        labels: whatever the loss takes, shape [n, ...].
        crossing: way in which activations leave.
        criterion: training loss.
        tail_units: number of last units that may stay on a device.
        seed: seed of noise and codecs.
    """
    point, tail = crossing.split_point, len(network) - tail_units
    halves = _Halves(network[point : max(point, tail)], network[max(point, tail) :], criterion)
    coding, seen = Coding(crossing.coding, seed), []
    batches = zip(activations.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
    for number, (own, given) in enumerate(batches):
        leaving = crossing.protect(own, generator(seed, "leakage", "noise", number))
        seen.append(halves.exchange(Part(1, number, 1, 1, 1.0), leaving, given, coding))
    arrived, cut, inner, outputs = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return Observation(arrived, cut, inner if tail >= point else None, outputs)


@dataclass(frozen=True)
class _Halves:
    """The server half in two: units before the tail, and the tail."""

    middle: nn.Sequential
    tail: nn.Sequential
    criterion: Criterion

    def exchange(self, part: Part, activation: Tensor, labels: Tensor, coding: Coding) -> Sequence[Tensor]:
        """Of one batch: activation as decoded, its gradient, the gradient before the tail, outputs."""
        sent = coding.encode_activation(part, activation.detach().requires_grad_())
        arrived = coding.decode_activation(sent, activation.device).detach().requires_grad_()
        before = self.middle(arrived.clone())  # units may work in place
        outputs = self.tail(before.clone())
        loss = self.criterion(outputs, labels)
        gradient, inner = torch.autograd.grad(loss, [arrived, before])
        returned = coding.encode_gradient(part, sent, gradient)
        inner_sent = coding.encode_activation(part, before.detach().requires_grad_())
        inner_returned = coding.encode_gradient(part, inner_sent, inner)
        return (
            arrived.detach(),
            coding.decode_gradient(sent, returned, activation.device),
            coding.decode_gradient(inner_sent, inner_returned, activation.device),
            outputs.detach(),
        )
