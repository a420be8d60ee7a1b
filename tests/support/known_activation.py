"""A network whose activations are known: whoever sees them on a wire recognises them."""

import struct

from torch import Tensor, nn

PATTERN = b"PiPa"
VALUE: float = struct.unpack("<f", PATTERN)[0]
WIDTH = 64
INPUTS = 3 * 8 * 8  # colour images of 8x8 pixels


class Known(nn.Module):
    """Returns the same number everywhere, though it has parameters and depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(INPUTS, WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, ...) to (B, WIDTH)."""
        zero: Tensor = 0 * self.linear(images.flatten(1))
        return zero + VALUE


class Scaled(nn.Module):
    """Makes numbers of ordinary size of it, and classes of those."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 10)

    def forward(self, activation: Tensor) -> Tensor:
        """Maps (B, WIDTH) to (B, 10)."""
        classes: Tensor = self.linear(activation / VALUE)
        return classes


def build() -> list[nn.Module]:
    """The units."""
    return [Known(), Scaled()]
