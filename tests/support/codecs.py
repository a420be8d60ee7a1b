"""Codecs as users write them, right and wrong, and values to code."""

import torch
from torch import Tensor

from pipar_rpc.compression.exact import Exact
from pipar_rpc.compression.models import ExactModel


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers; channels and samples differ in magnitude."""
    random = torch.Generator().manual_seed(seed)
    magnitudes = torch.randn(*shape[:2], *[1 for _ in shape[2:]], generator=random).exp()
    return (torch.randn(shape, generator=random) * magnitudes).to(dtype)


class WithRole(Exact):
    """Remembers what it was made with."""

    def __init__(self, role: str, level: int = 0) -> None:
        self.role, self.level = role, level


class Longer(Exact):
    """Its payload has a byte more than it says."""

    def encode(self, values, noise):  # type: ignore[no-untyped-def]
        return torch.cat([super().encode(values, noise), torch.zeros(1, dtype=torch.uint8)])


class Floats(Exact):
    """Its payload is not bytes."""

    def encode(self, values, noise):  # type: ignore[no-untyped-def]
        return values.reshape(-1)


class Flat(Exact):
    """Decodes to another shape."""

    def decode(self, payload, shape, dtype):  # type: ignore[no-untyped-def]
        return payload.view(dtype)


class Centred(Exact):
    """Codes samples by what others are."""

    def encode(self, values, noise):  # type: ignore[no-untyped-def]
        return super().encode(values - values.mean(0), noise)


class Broken(Exact):
    """Fails."""

    def encode(self, values, noise):  # type: ignore[no-untyped-def]
        raise RuntimeError("no such table\nand more lines")


class LongerModel(ExactModel):
    """Its payload has more than it says."""

    def encode(self, state, base):  # type: ignore[no-untyped-def]
        return state | {"more": torch.zeros(1)}


class HalfModel(ExactModel):
    """Decodes to another type."""

    def decode(self, payload, base):  # type: ignore[no-untyped-def]
        return {name: tensor.double() for name, tensor in payload.items()}


class BaselessModel(ExactModel):
    """Needs a network before."""

    def encode(self, state, base):  # type: ignore[no-untyped-def]
        return {name: tensor - base[name] for name, tensor in state.items()}


class Sometimes(Exact):
    """Its payload has a byte more where a value is 7, which no random number is."""

    def encode(self, values, noise):  # type: ignore[no-untyped-def]
        payload = super().encode(values, noise)
        return torch.cat([payload, payload[:1]]) if (values == 7).any() else payload
