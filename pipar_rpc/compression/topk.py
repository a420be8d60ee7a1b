"""The largest values of each sample alone, and gradients at the same places."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from pipar_rpc.base.errors import as_number, require
from pipar_rpc.compression.codec import Codec
from pipar_rpc.compression.noise import Noise


class TopK:
    """Sends the k values of a sample that have the largest magnitude, and where they are; the rest is 0.

    Of n values k = max(1, round(ratio * n)) are sent. Of these, round(random_share * k), at most k - 1, are
    not the largest but drawn at random among the others, so that every value is trained at times (RandTopk,
    Zheng et al., "Reducing Communication for Split Learning by Randomized Top-k Sparsification", IJCAI 2023).
    Magnitudes are compared as float32; of equal ones the first are sent. NaN counts as the largest, and the
    largest is always sent, so that a sample that is not finite is decoded so.

    Args:
        ratio: share of the values that is sent, above 0 and at most 1.
        random_share: share of these that is drawn at random, 0 to 1.

    Attributes:
        ratio: share of the values that is sent.
    """

    def __init__(self, ratio: float = 0.1, random_share: float = 0.0) -> None:
        require(0 < as_number(ratio) <= 1, "ratio", ratio, "above 0 and at most 1")
        require(0 <= as_number(random_share) <= 1, "random_share", random_share, "in 0..1")
        self.ratio, self._random_share = ratio, random_share

    def count(self, length: int) -> int:
        """How many of the `length` values of a sample are sent."""
        return min(length, max(1, round(self.ratio * length)))

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """The k values and their indices, 2 bytes each, or 4 where samples have more than 65,536 values."""
        length = prod(shape[1:])
        return int(shape[0]) * self.count(length) * (dtype.itemsize + _index_type(length).itemsize)

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """Values and their indices, ascending in each sample; those come first that have more bytes each."""
        flat = values.flatten(1) if values.dim() > 1 else values.unsqueeze(1)
        indices = self._choose(flat, noise)
        size = self.num_bytes(values.shape, values.dtype)
        payload = torch.empty(size, dtype=torch.uint8, device=values.device)
        values_at, indices_at = self._parts(payload, values.shape)
        values_at.view(values.dtype).copy_(flat.gather(1, indices).view(-1))
        indices_at.copy_(indices.view(-1))
        return payload

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The values at their places, zeros elsewhere."""
        values, _ = self._parts(payload, shape)
        return _placed(values.view(dtype), self.indices(payload, shape), shape)

    def indices(self, payload: Tensor, shape: Sequence[int]) -> Tensor:
        """Which values of each sample a payload holds: int64 of shape [b, k], ascending."""
        _, indices = self._parts(payload, shape)
        return indices.long().view(shape[0], self.count(prod(shape[1:])))

    def _choose(self, flat: Tensor, noise: Noise) -> Tensor:
        count = self.count(flat.shape[1])
        num_random = min(round(self._random_share * count), max(0, count - 1))
        indices = _largest(flat.float(), count - num_random)
        if num_random:
            lots = noise.uniform(flat.shape).to(flat.device).add_(1.0)
            lots.scatter_(1, indices, 0.0)  # smaller than those of all others, of which there are enough
            indices = torch.cat([indices, _largest(lots, num_random)], dim=1)
        return indices.sort(1).values

    def _parts(self, payload: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The bytes of the values, and the indices; whatever is wider goes first, where it is aligned."""
        length = prod(shape[1:])
        index_type = _index_type(length)
        size = int(shape[0]) * self.count(length) * index_type.itemsize
        split = len(payload) - size
        if split >= size:
            return payload[:split], payload[split:].view(index_type)
        return payload[size:], payload[:size].view(index_type)


class Masked:
    """Sends the values at places that both ends know; the rest is 0.

    Args:
        indices: places of each sample's values, int64 of shape [b, k].
    """

    def __init__(self, indices: Tensor) -> None:
        self._indices = indices

    def num_bytes(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """The size of k values per sample."""
        return self._indices.numel() * dtype.itemsize

    def encode(self, values: Tensor, noise: Noise) -> Tensor:
        """The bytes of the values at these places."""
        flat = values.reshape(len(values), prod(values.shape[1:]))
        return flat.gather(1, self._indices.to(values.device)).view(-1).view(torch.uint8)

    def decode(self, payload: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The values at their places, zeros elsewhere."""
        return _placed(payload.view(dtype), self._indices.to(payload.device), shape)


def gradient_codec(gradients: Codec, activations: Codec, payload: Tensor, shape: Sequence[int]) -> Codec:
    """The codec with which the gradient of one activation is coded.

    If both are `TopK`, the gradient is sent where the activation was, without indices, for both ends know
    them; then only the ratio of the activations' codec counts.

    Args:
        gradients: the codec for gradients.
        activations: the codec for activations.
        payload: payload of the activation.
        shape: shape of the activation, [b, *sample].
    """
    if isinstance(gradients, TopK) and isinstance(activations, TopK):
        return Masked(activations.indices(payload, shape))
    return gradients


def gradient_num_bytes(gradients: Codec, activations: Codec, shape: Sequence[int], dtype: torch.dtype) -> int:
    """Size of the payload of the codec that `gradient_codec` returns, known before there is an activation."""
    if isinstance(gradients, TopK) and isinstance(activations, TopK):
        return int(shape[0]) * activations.count(prod(shape[1:])) * dtype.itemsize
    return gradients.num_bytes(shape, dtype)


def _index_type(length: int) -> torch.dtype:
    return torch.uint16 if length <= 2**16 else torch.int32


def _largest(values: Tensor, count: int) -> Tensor:
    """Indices of the `count` values of largest magnitude in each row of a float32 matrix, in any order.

    The bits of a magnitude are a key in its order, NaN above infinity. With the index in the key's lower half
    no two are equal, so the choice is the same on every device and for every number of rows.
    """
    last = values.shape[1] - 1
    from_behind = torch.arange(last, -1, -1, device=values.device)
    keys = (values.view(torch.int32) & 0x7FFFFFFF).long().bitwise_left_shift_(32).bitwise_or_(from_behind)
    return last - (keys.topk(count, dim=1, sorted=False).values & 0xFFFFFFFF)


def _placed(values: Tensor, indices: Tensor, shape: Sequence[int]) -> Tensor:
    flat = torch.zeros(shape[0], prod(shape[1:]), dtype=values.dtype, device=values.device)
    return flat.scatter_(1, indices, values.view(indices.shape)).view(tuple(shape))
