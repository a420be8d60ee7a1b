"""What a codec is: values of a micro-batch to bytes, and bytes to values."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipar_rpc.compression.noise import Noise

Role = Literal["activations", "gradients"]
"""What a codec is for: activations are rounded to nearest, gradients at random without bias."""


@runtime_checkable
class Codec(Protocol):
    """Turns the values of a micro-batch into a payload and back.

    Samples are coded independently of each other: what comes back for a batch is what comes back for its
    parts, whatever parts it is cut into. Nothing may be remembered from call to call, and equal input gives
    equal bits. Values are detached from autograd.
    """

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Size of the payload, from shapes alone.

        Args:
            shape: shape of the values, [b, *sample]; b may be 0.
            dtype: type of the values.
        """
        ...

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """The payload of some samples.

        Args:
            values: floating-point numbers of shape [b, *sample], on any device; they may not be changed.
            noise: random numbers for these samples, for codecs that round or choose at random.

        Returns:
            Contiguous uint8 tensor of shape [num_bytes], on the device of the values; it may share their
            memory.
        """
        ...

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The values that a payload stands for.

        Args:
            payload: result of `encode`, on any device; it may not be changed.
            shape: shape of the values that were encoded.
            dtype: their type.

        Returns:
            Tensor of this shape and type, on the payload's device; it may share the payload's memory.
        """
        ...
