"""Brain floating point: the upper half of a float32."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from pipar_rpc.compression.noise import Noise


class BF16:
    """Rounds to bfloat16, to nearest with ties to even: two bytes per value, the range of float32."""

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Two bytes per value."""
        return 2 * prod(shape)

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """The bytes of the rounded values."""
        return values.to(torch.bfloat16).reshape(-1).view(torch.uint8)

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The rounded values."""
        return payload.view(torch.bfloat16).view(tuple(shape)).to(dtype)
