"""Codecs by the names that the configuration has for them, and those of the user's own.

A further codec is a class with the methods of `Codec` and an entry of `CODECS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError, first_line, require
from pipar_rpc.compression.bf16 import BF16
from pipar_rpc.compression.codec import Codec, Role
from pipar_rpc.compression.exact import Exact
from pipar_rpc.compression.int4 import Int4
from pipar_rpc.compression.int8 import Int8
from pipar_rpc.compression.noise import Noise
from pipar_rpc.compression.topk import TopK

NONE = "none"
ACTIVATIONS: Role = "activations"
GRADIENTS: Role = "gradients"


@dataclass(frozen=True)
class CodecSpec(dotted.Choice):
    """All that is needed to build a codec; plain data, with a name of `CODECS` or `MODEL_CODECS`."""

    name: str = NONE

    @property
    def label(self) -> str:
        """The name by which results call the codec, with its arguments: topk-0.1-0.1."""
        name = self.name if self.target is None else self.target.rpartition(".")[2]
        return "-".join([name, *map(str, self.args.values())])


AS_IT_IS = CodecSpec()
CODECS: dict[str, Callable[..., Codec]] = {
    NONE: Exact,
    "bf16": BF16,
    "int8": Int8,
    "int4": Int4,
    "topk": TopK,
}


def build_codec(spec: CodecSpec, key: str, role: Role) -> Codec:
    """The codec for activations or for their gradients.

    A function or class of the user's gets what `args` holds, and, if it has a parameter `role`, that. What
    it returns is tried on a few random numbers.

    Args:
        spec: codec.
        key: configuration key of the codec, e.g. "compression.activations", for errors.
        role: kind of values; it decides the rounding.

    Raises:
        UserError: unknown name; arguments that the codec does not have or that are out of range; no such
            function, it failed, or what it returned is no codec.
    """
    codec: Codec = make(spec, key, CODECS, {"role": role})
    if spec.target is not None:
        check_custom(codec, spec, key, Codec, "the methods num_bytes, encode and decode", _mistake)
    return codec


def make(
    spec: CodecSpec, key: str, codecs: Mapping[str, Callable[..., Any]], offered: Mapping[str, Any]
) -> Any:
    """What the spec stands for, without a look at it; see `build_codec`.

    Args:
        spec: codec.
        key: configuration key of the codec, for errors.
        codecs: those that have a name.
        offered: keyword arguments that codecs get if they have parameters for them.
    """
    if spec.target is not None:
        return dotted.make(key, spec, codecs, offered)
    require(spec.name in codecs, f"{key}.name", spec.name, f"one of {', '.join(codecs)}")
    try:
        return dotted.make(key, spec, codecs, offered)
    except ConfigError as error:  # a codec knows its arguments' names, not where they stand
        raise UserError(f"{key}.args.{error}") from error


def check_custom(
    codec: Any, spec: CodecSpec, key: str, kind: type, needed: str, mistake: Callable[[Any], str | None]
) -> None:
    """Raises UserError unless an object of the user's is a codec that does what a codec must.

    Args:
        codec: the object.
        spec: the codec as it was asked for.
        key: configuration key of the codec, for errors.
        kind: the protocol that it must have.
        needed: members of the protocol, for errors.
        mistake: function that tries a codec and says what it does wrong; None if nothing is.
    """
    wrong: str | None = f"with {needed}, not {type(codec).__name__}"
    if isinstance(codec, kind):
        try:
            wrong = mistake(codec)
        except Exception as error:
            failed = f"{key}._target_={spec.target} failed: {type(error).__name__}: {first_line(error)}"
            raise UserError(failed) from error
    if wrong is not None:
        raise ConfigError(f"{key}._target_", spec.target, f"a function that returns a codec, {wrong}")


def _mistake(codec: Codec) -> str | None:
    """What a codec of the user's does wrong on a few random numbers."""
    values = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0))
    noise, decoded = Noise(0, "check"), []
    for first, part in ((0, values), (0, values[:1]), (1, values[1:])):
        payload, size = codec.encode(part.clone(), noise.at(first)), codec.num_bytes(part.shape, part.dtype)
        if payload.dtype != torch.uint8 or payload.shape != (size,):
            found = f"{payload.dtype} of shape {list(payload.shape)}"
            return f"whose payload is uint8 of shape [num_bytes] = [{size}], not {found}"
        decoded.append(codec.decode(payload, part.shape, part.dtype))
        if (decoded[-1].shape, decoded[-1].dtype) != (part.shape, part.dtype):
            found = f"{decoded[-1].dtype} of shape {list(decoded[-1].shape)}"
            return f"that decodes to {part.dtype} of shape {list(part.shape)}, not {found}"
    if not torch.equal(decoded[0], torch.cat(decoded[1:])):
        return "that codes each sample independently of the others"
    return None
