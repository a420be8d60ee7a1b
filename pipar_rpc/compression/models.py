"""Codecs for whole networks: what devices and server send each other at an aggregation."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pipar_rpc.base import states
from pipar_rpc.base.states import State
from pipar_rpc.compression.int8 import LIMIT
from pipar_rpc.compression.quantise import group_length, quantise
from pipar_rpc.compression.registry import NONE, CodecSpec, check_custom, make

SAME, CHANGE, SCALES = "same", "change", "scales"


@runtime_checkable
class ModelCodec(Protocol):
    """Turns a network into a payload and back, without random choices: equal input gives equal bits.

    Who sends a network decodes its own payload to know what the others got.

    Attributes:
        needs_base: whether networks before are used at all, so that both ends have to keep them.
    """

    needs_base: bool

    def num_bytes(self, state: State, has_base: bool) -> int:
        """Size of the payload.

        Args:
            state: a network of the same names, shapes and types, e.g. with meta tensors.
            has_base: whether both ends hold a network before it.
        """
        ...

    def encode(self, state: State, base: State | None) -> State:
        """The payload, a dict of tensors; they may be those of the network.

        Args:
            state: a network, or a part of one.
            base: the last global network, the same bits at both ends; None where there is none. It has all
                names of `state`, with the same shapes and types.
        """
        ...

    def decode(self, payload: State, base: State | None) -> State:
        """The network that a payload stands for, with the names, shapes and types of the one encoded."""
        ...


class ExactModel:
    """Sends networks as they are."""

    needs_base = False

    def num_bytes(self, state: State, has_base: bool) -> int:
        """The network's own size."""
        return states.num_bytes(state)

    def encode(self, state: State, base: State | None) -> State:
        """The network."""
        return dict(state)

    def decode(self, payload: State, base: State | None) -> State:
        """The network."""
        return dict(payload)


class BF16Model:
    """Rounds floating-point tensors to bfloat16, to nearest; others go as they are."""

    needs_base = False
    by_tensor = True

    def num_bytes(self, state: State, has_base: bool) -> int:
        """Two bytes per floating-point value."""
        return sum(_narrow(tensor.dtype).itemsize * tensor.numel() for tensor in state.values())

    def encode(self, state: State, base: State | None) -> State:
        """Rounded tensors, each under the type that it had and its name."""
        return {
            f"{str(tensor.dtype).removeprefix('torch.')}/{name}": tensor.to(_narrow(tensor.dtype))
            for name, tensor in state.items()
        }

    def decode(self, payload: State, base: State | None) -> State:
        """Tensors of the types that they had."""
        found = {}
        for key, tensor in payload.items():
            dtype, _, name = key.partition("/")
            found[name] = tensor.to(getattr(torch, dtype))
        return found


class Int8Model:
    """Sends how the network changed since the last global one, as integers -127..127.

    The change of a weight is about scale * integer, scale = max |change| / 127, with a float32 scale for each
    output channel (first dimension), rounded to nearest. Tensors of fewer than two dimensions go as they are:
    biases and the statistics of normalisation are few, and a variance that got the error of the channel that
    changed most could become negative. So do integers, and everything where there is no network before.
    """

    needs_base = True
    by_tensor = True

    def num_bytes(self, state: State, has_base: bool) -> int:
        """One byte per value of a change, four per scale; what goes as it is has its own size."""
        size = 0
        for tensor in state.values():
            coded = has_base and _is_weight(tensor)
            size += tensor.numel() + 4 * _num_scales(tensor) if coded else tensor.nbytes
        return size

    def encode(self, state: State, base: State | None) -> State:
        """Integers, scales and tensors as they are, under "change/", "scales/" or "same/" and their names."""
        payload = {}
        for name, tensor in state.items():
            if base is None or not _is_weight(tensor):
                payload[f"{SAME}/{name}"] = tensor
                continue
            change = tensor - base[name].to(tensor.device)
            scales, integers = quantise(change.reshape(_num_scales(tensor), -1).float(), LIMIT, None)
            payload[f"{CHANGE}/{name}"] = integers.view(tensor.shape)
            payload[f"{SCALES}/{name}"] = scales.view(-1)
        return payload

    def decode(self, payload: State, base: State | None) -> State:
        """The network before plus the changes.

        Raises:
            ValueError: a payload of changes without the network before.
        """
        found = {}
        for key, tensor in payload.items():
            kind, _, name = key.partition("/")
            if kind == SAME:
                found[name] = tensor
            elif kind == CHANGE:
                if base is None:
                    raise ValueError(f"the change of {name} needs the network that it is a change of")
                before, scales = base[name].to(tensor.device), payload[f"{SCALES}/{name}"].view(-1, 1)
                change = tensor.float().view(len(scales), -1).mul_(scales).view(tensor.shape)
                found[name] = before + change.to(before.dtype)
        return found


MODEL_CODECS: dict[str, Callable[..., ModelCodec]] = {NONE: ExactModel, "bf16": BF16Model, "int8": Int8Model}


def works_by_tensor(codec: ModelCodec) -> bool:
    """Whether a codec treats each tensor by itself, under keys that end in "/" and its name."""
    return bool(getattr(codec, "by_tensor", False))


def build_model_codec(spec: CodecSpec, key: str) -> ModelCodec:
    """The codec for whole networks; as `build_codec`, with `MODEL_CODECS`.

    Args:
        spec: codec.
        key: configuration key of the codec, e.g. "compression.models", for errors.

    Raises:
        UserError: as `build_codec`.
    """
    codec: ModelCodec = make(spec, key, MODEL_CODECS, {})
    if spec.target is not None:
        check_custom(codec, spec, key, ModelCodec, "needs_base, num_bytes, encode and decode", _mistake)
    return codec


def _mistake(codec: ModelCodec) -> str | None:
    """What a codec of the user's does wrong on a small network."""
    random = torch.Generator().manual_seed(0)
    base = {"weight": torch.zeros(3, 2, 2), "bias": torch.ones(3), "count": torch.tensor(4)}
    state = base | {"weight": torch.randn(3, 2, 2, generator=random), "bias": torch.rand(3, generator=random)}
    for before in (None, base):
        payload = codec.encode(dict(state), before)
        shapes = {name: tensor.to("meta") for name, tensor in state.items()}
        size = codec.num_bytes(shapes, before is not None)
        if states.num_bytes(payload) != size:
            return f"whose payload has the {size} bytes of num_bytes, not {states.num_bytes(payload)}"
        decoded = codec.decode(payload, before)
        if {name: _kind(own) for name, own in decoded.items()} != {n: _kind(own) for n, own in state.items()}:
            return "that decodes to the names, shapes and types that were encoded"
    return None


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _narrow(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype.is_floating_point and dtype.itemsize > 2 else dtype


def _is_weight(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel() > 0


def _num_scales(tensor: Tensor) -> int:
    return tensor.numel() // group_length(tensor.shape)
