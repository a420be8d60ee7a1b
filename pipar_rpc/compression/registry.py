"""The codecs by name, and how they are made from plain data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.compression.codec import Codec
from pipar_rpc.compression.floats import BFloat16, Exact
from pipar_rpc.compression.integers import Int4, Int8
from pipar_rpc.compression.models import BFloat16Models, ExactModels, Int8Changes, ModelCodec
from pipar_rpc.compression.noise import Noise
from pipar_rpc.compression.topk import TopK

EXACT, CUSTOM = "none", "custom"
ACTIVATIONS, GRADIENTS, MODELS = "activations", "gradients", "models"  # the keys below `compression`


@dataclass(frozen=True)
class CodecSpec:
    """All that is needed to make a codec; plain data.

    Attributes:
        name: a key of `CODECS` or `MODEL_CODECS`, or "custom".
        target: dotted name of the function or class that makes a custom codec.
        args: keyword arguments.
    """

    name: str = EXACT
    target: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


AS_IT_IS = CodecSpec()
CODECS: Mapping[str, Callable[..., Codec]] = {
    EXACT: Exact,
    "bf16": BFloat16,
    "int8": Int8,
    "int4": Int4,
    "topk": TopK,
}
MODEL_CODECS: Mapping[str, Callable[..., ModelCodec]] = {
    EXACT: ExactModels,
    "bf16": BFloat16Models,
    "int8": Int8Changes,
}


def build_codec(spec: CodecSpec, what: str) -> Codec:
    """The codec of activations or gradients.

    A class or function of the user's gets what `args` holds, and, if it has a parameter `stochastic`, whether
    it should round stochastically.

    Args:
        spec: the codec.
        what: `ACTIVATIONS` or `GRADIENTS`. Gradients are rounded stochastically: their sum stays unbiased.

    Raises:
        UserError: arguments that the codec does not have or that are out of range; no such function, it
            failed, or what it returned is no codec.
    """
    key = f"compression.{what}"
    offered = {"key": key, "stochastic": what == GRADIENTS}
    if spec.target is None:
        return dotted.build(key, spec.name, CODECS[spec.name], offered, spec.args)
    codec = dotted.call(f"{key}._target_", spec.target, offered, spec.args)
    if not isinstance(codec, Codec):
        what = f"a codec, with the methods num_bytes, encode and decode, not {type(codec).__name__}"
        raise ConfigError(f"{key}._target_", spec.target, f"a function that returns {what}")
    _try(codec, f"{key}._target_={spec.target}")
    return codec


def build_model_codec(spec: CodecSpec) -> ModelCodec:
    """The codec of models; errors as `build_codec`."""
    key = f"compression.{MODELS}"
    if spec.target is None:
        return dotted.build(key, spec.name, MODEL_CODECS[spec.name], {}, spec.args)
    codec = dotted.call(f"{key}._target_", spec.target, {}, spec.args)
    if not isinstance(codec, ModelCodec):
        what = f"needs_base and the methods encode, decode and num_bytes, not {type(codec).__name__}"
        raise ConfigError(f"{key}._target_", spec.target, f"a function that returns a codec, with {what}")
    return codec


def _try(codec: Codec, name: str) -> None:
    """Has a codec of the user's encode and decode a few numbers, so that mistakes show before training."""
    values = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    try:
        size = codec.num_bytes(values.shape, values.dtype)
        payload = codec.encode(values, Noise(0, "try"))
        decoded = codec.decode(payload, values.shape, values.dtype)
    except Exception as error:
        raise UserError(f"{name} failed: {type(error).__name__}: {first_line(error)}") from error
    if payload.dtype != torch.uint8 or payload.shape != (size,):
        made = f"{payload.dtype} of shape {list(payload.shape)}"
        raise UserError(f"{name}: encode must return uint8 of shape [{size}], as num_bytes says, not {made}")
    if decoded.dtype != values.dtype or decoded.shape != values.shape:
        made = f"{decoded.dtype} of shape {list(decoded.shape)}"
        raise UserError(f"{name}: decode must return float32 of shape {list(values.shape)}, not {made}")
