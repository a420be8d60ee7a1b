"""Few values of each sample: the largest ones, and some that are drawn among the others.

RandTopk (Zheng et al., Reducing Communication for Split Learning by Randomized Top-k Sparsification, IJCAI
2023): of the k values that are sent, a share is drawn at random among those that are not the largest. The
gradient is sent at the same places, so that no indices come down.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from pipar_rpc.base.errors import require
from pipar_rpc.compression.codec import Codec, flat, from_bytes, to_bytes
from pipar_rpc.compression.noise import Noise

FEW = 1 << 16  # up to so many values of a sample, an index takes two bytes


class TopK:
    """The k = max(1, round(ratio * n)) values of a sample that are sent; the others are decoded as zero.

    Args:
        key: configuration key, for errors.
        ratio: share of the values that is sent.
        random_share: share of these that is drawn among the values that are not the largest.
    """

    def __init__(self, key: str, ratio: float = 0.1, random_share: float = 0.0) -> None:
        require(0 < ratio <= 1, f"{key}.args.ratio", ratio, "above 0, at most 1")
        require(0 <= random_share <= 1, f"{key}.args.random_share", random_share, "0..1")
        self.ratio, self.random_share = ratio, random_share

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """As `Codec.num_bytes`."""
        return self.gradient_bytes(shape, dtype) + shape[0] * self._count(shape) * _index_type(shape).itemsize

    def gradient_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Size of the payload of a gradient at the places of an activation of this shape."""
        return shape[0] * self._count(shape) * dtype.itemsize

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """The values in the order of their indices, then the indices."""
        rows, count = flat(values), self._count(values.shape)
        drawn = round(count * self.random_share)
        places = rows.abs().topk(count - drawn, dim=1).indices
        if drawn:
            chances = noise.uniform(values.shape, values.device).view(rows.shape).scatter(1, places, -1.0)
            places = torch.cat([places, chances.topk(drawn, dim=1).indices], dim=1)
        places = places.sort(dim=1).values
        return torch.cat([to_bytes(rows.gather(1, places)), to_bytes(places.to(_index_type(values.shape)))])

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `Codec.decode`."""
        return AtPlaces(self.places(payload, shape, dtype)).decode(
            payload[: self.gradient_bytes(shape, dtype)], shape, dtype
        )

    def places(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Which values a payload has: int64 of shape [b, k]."""
        stored = from_bytes(payload[self.gradient_bytes(shape, dtype) :], _index_type(shape))
        return (stored.long() & (FEW - 1 if stored.dtype is torch.int16 else -1)).view(shape[0], -1)

    def _count(self, shape: Sequence[int]) -> int:
        return min(prod(shape[1:]), max(1, round(self.ratio * prod(shape[1:]))))


class AtPlaces:
    """The values at places that both ends know; the others are decoded as zero.

    Args:
        places: int64 of shape [b, k].
    """

    def __init__(self, places: Tensor) -> None:
        self._places = places

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """As `Codec.num_bytes`."""
        return self._places.numel() * dtype.itemsize

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """As `Codec.encode`."""
        return to_bytes(flat(values).gather(1, self._places.to(values.device)))

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `Codec.decode`."""
        values = payload.new_zeros(shape[0], prod(shape[1:]), dtype=dtype)
        chosen = from_bytes(payload, dtype).view(self._places.shape)
        return values.scatter_(1, self._places.to(payload.device), chosen).view(tuple(shape))


def gradient_codec(
    gradients: Codec, activations: Codec, payload: Tensor, shape: Sequence[int], dtype: torch.dtype
) -> Codec:
    """The codec of a gradient, given the payload of its activation, which both ends have."""
    if isinstance(gradients, TopK) and isinstance(activations, TopK):
        return AtPlaces(activations.places(payload, shape, dtype))
    return gradients


def gradient_bytes(gradients: Codec, activations: Codec, shape: Sequence[int], dtype: torch.dtype) -> int:
    """Size of the payload of a gradient, known before its activation is."""
    if isinstance(gradients, TopK) and isinstance(activations, TopK):
        return activations.gradient_bytes(shape, dtype)
    return gradients.num_bytes(shape, dtype)


def _index_type(shape: Sequence[int]) -> torch.dtype:
    return torch.int16 if prod(shape[1:]) <= FEW else torch.int32
