"""No compression: the bytes of the values as they are."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from pipar_rpc.compression.noise import Noise


class Exact:
    """Sends values as they are. Both ways are views, unless the values are not contiguous."""

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """The values' own size."""
        return prod(shape) * dtype.itemsize

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """The bytes of the values."""
        return values.reshape(-1).view(torch.uint8)

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The values of these bytes."""
        return payload.view(dtype).view(tuple(shape))
