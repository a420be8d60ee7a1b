"""Codecs of models: a state dict to a payload, which is a state dict too, and back.

`needs_base` says whether the payload is the change since a network that both ends hold. Without such a
network the payload is the network as it is. Both ends decode the same bits.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pipar_rpc.base.states import State, num_bytes
from pipar_rpc.compression.integers import SCALE, Int8, quantise

CHANGE, SCALES = ":change", ":scales"  # end the names of what is sent instead of a tensor


@runtime_checkable
class ModelCodec(Protocol):
    """Turns a state dict into a payload and back; no tensor is changed.

    Attributes:
        needs_base: whether what both ends hold is needed.
    """

    needs_base: bool

    def encode(self, state: State, base: Mapping[str, Tensor] | None) -> State:
        """The payload; names do not matter to anybody else.

        Args:
            state: parameters and buffers.
            base: a network that both ends hold, with these names at least; None if there is none.
        """
        ...

    def decode(self, payload: State, base: Mapping[str, Tensor] | None) -> State:
        """Parameters and buffers, with their names, shapes and types; `base` as in `encode`."""
        ...

    def num_bytes(self, state: State) -> int:
        """Size of a payload where both ends hold a base; the state may be on the meta device."""
        ...


class ExactModels:
    """Models as they are."""

    needs_base = False

    def encode(self, state: State, base: Mapping[str, Tensor] | None) -> State:
        """The state."""
        return state

    def decode(self, payload: State, base: Mapping[str, Tensor] | None) -> State:
        """The payload."""
        return payload

    def num_bytes(self, state: State) -> int:
        """As `ModelCodec.num_bytes`."""
        return num_bytes(state)


class BFloat16Models:
    """The nearest bfloat16 of every floating-point number; decoded as float32."""

    needs_base = False

    def encode(self, state: State, base: Mapping[str, Tensor] | None) -> State:
        """As `ModelCodec.encode`."""
        return {
            f"{name}:{_name_of(own.dtype)}" if own.is_floating_point() else name: (
                own.to(torch.bfloat16) if own.is_floating_point() else own
            )
            for name, own in state.items()
        }

    def decode(self, payload: State, base: Mapping[str, Tensor] | None) -> State:
        """As `ModelCodec.decode`."""
        decoded = {}
        for key, own in payload.items():
            name, separator, dtype = key.partition(":")
            decoded[name] = own.to(getattr(torch, dtype)) if separator else own
        return decoded

    def num_bytes(self, state: State) -> int:
        """As `ModelCodec.num_bytes`."""
        return num_bytes(self.encode(state, None))


class Int8Changes:
    """The change of every floating-point tensor since the base in one byte for each number.

    Codes are symmetric and rounded to the nearest, with a scale for each entry of the first dimension, the
    output channels (`pipar_rpc.compression.integers`), or one for a tensor of one dimension. What rounding
    loses on the way down is part of the next change, for the base is what was decoded.
    """

    needs_base = True

    def encode(self, state: State, base: Mapping[str, Tensor] | None) -> State:
        """As `ModelCodec.encode`."""
        payload: State = {}
        for name, own in state.items():
            if base is None or not own.is_floating_point():
                payload[name] = own
                continue
            scales, codes = quantise(_rows(own - base[name]), Int8.LARGEST, None)
            payload[f"{name}{CHANGE}"], payload[f"{name}{SCALES}"] = codes.view(own.shape), scales
        return payload

    def decode(self, payload: State, base: Mapping[str, Tensor] | None) -> State:
        """As `ModelCodec.decode`."""
        decoded: State = {}
        for key, own in payload.items():
            name = key.removesuffix(CHANGE)
            if key.endswith(SCALES):
                continue
            if name == key:
                decoded[name] = own
            elif base is None:
                raise ValueError(f"the change of {name} without the network that it is a change of")
            else:
                before, scales = base[name], payload[f"{name}{SCALES}"]
                change = _rows(own).to(before.dtype) * scales.to(before.dtype)
                decoded[name] = before + change.view(before.shape)
        return decoded

    def num_bytes(self, state: State) -> int:
        """As `ModelCodec.num_bytes`."""
        floats = [own for own in state.values() if own.is_floating_point()]
        rest = sum(own.nbytes for own in state.values() if not own.is_floating_point())
        return rest + sum(own.numel() + SCALE.itemsize * len(_rows(own)) for own in floats)


def _rows(values: Tensor) -> Tensor:
    """One row for each entry of the first dimension, one in all for up to one dimension."""
    return values.reshape(len(values), -1) if values.dim() > 1 else values.reshape(1, -1)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
