"""What goes into a network: the shape and the element type of one sample."""

from typing import NamedTuple

import torch
from torch import Tensor

FLOAT = "float"


class NetworkInput(NamedTuple):
    """One sample as it goes into the network; plain data.

    Attributes:
        shape: shape of one sample, without the batch.
        dtype: "float" for torch's default type, or the name of another type, e.g. "int64" for tokens.
    """

    shape: tuple[int, ...]
    dtype: str = FLOAT

    @classmethod
    def of(cls, batch: Tensor) -> "NetworkInput":
        """What the samples of a batch, shape [b, ...], are."""
        name = FLOAT if batch.dtype == torch.get_default_dtype() else str(batch.dtype).removeprefix("torch.")
        return cls(tuple(batch.shape[1:]), name)

    @property
    def is_square_image(self) -> bool:
        """Whether it is a float image [C, S, S]."""
        return self.dtype == FLOAT and len(self.shape) == 3 and self.shape[1] == self.shape[2]

    def make(self, count: int, device: torch.device | str) -> Tensor:
        """Makes a batch up, to try a network or to time it.

        Floats are random numbers 0..1 from torch's own generator; anything else is 0, which every vocabulary
        has.

        Args:
            count: number of samples.
            device: torch device, also "meta".
        """
        if self.dtype == FLOAT:
            return torch.rand(count, *self.shape, device=device)
        return torch.zeros(count, *self.shape, dtype=getattr(torch, self.dtype), device=device)

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape)) or 'one number'} {self.dtype}"
