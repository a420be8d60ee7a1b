"""What crosses the cut as the codecs make it: activations on their way up, their gradients on the way down.

Device and server each have a `Coding` of their own, made from the same plain data. The device differentiates
at the activation that it computed, with the gradient as decoded; the server computes on the activation as
decoded. So training with codecs is training with the same quantisers at the cut (docs/compression.md).

Where the labels stay on the device there are two cuts: what the server half computes crosses to the device as
activations do, and its gradient crosses to the server.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from pipar_rpc.base.errors import UserError, require
from pipar_rpc.base.microbatch import Part
from pipar_rpc.compression.codec import Codec
from pipar_rpc.compression.noise import Noise
from pipar_rpc.compression.registry import ACTIVATIONS, AS_IT_IS, GRADIENTS, NONE, CodecSpec, build_codec
from pipar_rpc.compression.topk import TopK, gradient_codec, gradient_num_bytes


@dataclass(frozen=True)
class CodingSpec:
    """The codecs of one device, as plain data.

    Attributes:
        activations: codec of activations.
        gradients: codec of their gradients.
    """

    activations: CodecSpec = AS_IT_IS
    gradients: CodecSpec = AS_IT_IS

    @property
    def exact(self) -> bool:
        """Whether both cross as they are."""
        return self.activations.name == self.gradients.name == NONE


Move = Callable[[Tensor], Tensor]
"""Brings a tensor to another place; see `base.gpu.Stream`, whose copies may take a while."""

NO_CODECS = CodingSpec()
TAIL = "_before_tail"


class Crossing(StrEnum):
    """Which way to the server half and back it is."""

    ONLY = "only"  # activation and labels up, the activation's gradient back
    FIRST = "first"  # the activation up, the server half's output back
    SECOND = "second"  # the output's gradient up, the activation's gradient back


class Coded(NamedTuple):
    """What crosses: an activation, or the gradient of the server half's output.

    Attributes:
        payload: bytes of the encoded values: uint8 of shape [m]; where it crosses, on the CPU.
        shape: shape of the values, samples first.
        dtype: element type of the values.
        gradient_bytes: size of the payload in which the gradient of the activation comes back; None if none
            is wanted.
        crossing: way on which it is; a first one is not answered by a gradient.
    """

    payload: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    gradient_bytes: int | None
    crossing: Crossing = Crossing.ONLY

    @property
    def answer_bytes(self) -> int | None:
        """Size of the gradient's payload in the answer to this crossing; None if there is none in it."""
        return None if self.crossing is Crossing.FIRST else self.gradient_bytes

    @property
    def saved_bytes(self) -> int:
        """Bytes by which payload and gradient are smaller than the values; may be negative."""
        values = prod(self.shape) * self.dtype.itemsize
        gradient = 0 if self.gradient_bytes is None else values - self.gradient_bytes
        return values - self.payload.nbytes + gradient

    def moved(self, move: Move) -> "Coded":
        """The same with its payload in another place."""
        payload = move(self.payload)
        return self if payload is self.payload else self._replace(payload=payload)


class Coding:
    """Encodes and decodes for one device.

    Random numbers depend on seed, device, epoch, iteration and the sample's number in the mini-batch, so they
    are the same for every number of micro-batches, and in a training that is resumed.

    Args:
        spec: the codecs.
        seed: seed of the experiment.
        rank: number of the device.
        cut: name of the cut, for random numbers of its own; empty for the cut after unit P.

    Attributes:
        exact: whether everything crosses as it is.
        saved_bytes: bytes by which payloads were smaller so far than what they stand for, both ways; may be
            negative.

    Raises:
        UserError: a codec has not these arguments.
    """

    def __init__(self, spec: CodingSpec, seed: int = 0, rank: int = 0, cut: str = "") -> None:
        self.exact, self._spec, self._seed, self._rank, self._cut = spec.exact, spec, seed, rank, cut
        self.saved_bytes = 0
        self._activations = build_codec(spec.activations, f"compression.{ACTIVATIONS}", ACTIVATIONS)
        self._gradients = build_codec(spec.gradients, f"compression.{GRADIENTS}", GRADIENTS)
        up, down = self._activations, self._gradients
        if isinstance(up, TopK) and isinstance(down, TopK) and "ratio" in spec.gradients.args:
            same = f"{up.ratio} as of activations: gradients come back at the same places"
            require(down.ratio == up.ratio, "compression.gradients.args.ratio", down.ratio, same)

    def before_tail(self) -> "Coding":
        """The same codecs at the cut before the device's last units, with random numbers of their own."""
        return Coding(self._spec, self._seed, self._rank, TAIL)

    def encode_activation(self, part: Part, activation: Tensor, to_host: Move = Tensor.cpu) -> Coded:
        """Encodes the output of the device half.

        Args:
            part: place of the micro-batch within the mini-batch.
            activation: values of shape [b, ...]; a gradient comes back if they require one.
            to_host: function that brings the payload to the CPU.
        """
        shape, dtype = tuple(activation.shape), activation.dtype
        values = activation.detach().contiguous()  # a unit may have transposed them
        payload = self._activations.encode(values, self._noise(ACTIVATIONS, part))
        _check_size(ACTIVATIONS, payload, self._activations.num_bytes(shape, dtype))
        size = self.gradient_bytes(shape, dtype) if activation.requires_grad else None
        sent = Coded(to_host(payload), shape, dtype, size)
        self.saved_bytes += sent.saved_bytes
        return sent

    def decode_activation(self, sent: Coded, device: torch.device) -> Tensor:
        """The activation with which the server computes, on `device`."""
        return self._activations.decode(sent.payload.to(device), sent.shape, sent.dtype)

    def decode_leaf(self, sent: Coded, device: torch.device) -> Tensor:
        """As `decode_activation`, a leaf that gets a gradient if one is wanted."""
        return self.decode_activation(sent, device).detach().requires_grad_(sent.gradient_bytes is not None)

    def encode_gradient(
        self, part: Part, sent: Coded, gradient: Tensor, to_host: Move = Tensor.cpu
    ) -> Tensor:
        """Encodes the gradient of an activation.

        Args:
            part: place of the micro-batch within the mini-batch.
            sent: the activation.
            gradient: gradient of the loss with respect to the activation as decoded; its shape.
            to_host: function that brings the payload to the CPU.

        Returns:
            The payload: uint8 of shape [sent.gradient_bytes], on the CPU.
        """
        values = gradient.contiguous()
        payload = self._gradient_codec(sent).encode(values, self._noise(GRADIENTS, part))
        _check_size(GRADIENTS, payload, sent.gradient_bytes)
        return to_host(payload)

    def decode_gradient(self, sent: Coded, payload: Tensor, device: torch.device) -> Tensor:
        """The gradient with which the device differentiates, on `device`."""
        return self._gradient_codec(sent).decode(payload.to(device), sent.shape, sent.dtype)

    def activation_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Size of the payload of an activation."""
        return self._activations.num_bytes(shape, dtype)

    def gradient_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Size of the payload of an activation's gradient."""
        return gradient_num_bytes(self._gradients, self._activations, shape, dtype)

    def _gradient_codec(self, sent: Coded) -> Codec:
        return gradient_codec(self._gradients, self._activations, sent.payload, sent.shape)

    def _noise(self, what: str, part: Part) -> Noise:
        stream = what + self._cut, self._rank, part.epoch, part.iteration
        return Noise(self._seed, *stream, first=part.first)


def _check_size(what: str, payload: Tensor, num_bytes: int | None) -> None:
    if payload.numel() != num_bytes:
        made = f"its encode made {payload.numel()} bytes where its num_bytes says {num_bytes}"
        raise UserError(f"compression.{what}: {made}")
