"""The configuration of how activations, their gradients and models are compressed: `compression`."""

from dataclasses import dataclass, field
from typing import Any

from pipar_rpc.base.errors import nearest, require
from pipar_rpc.compression.models import MODEL_CODECS
from pipar_rpc.compression.registry import CODECS, CUSTOM, NONE, CodecSpec


@dataclass
class CodecConfig:
    """One codec; `pipar_rpc.compression.registry` checks its arguments."""

    name: str = NONE
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> CodecSpec:
        """The codec as plain data."""
        return CodecSpec(self.name, self._target_, self.args)


@dataclass
class CompressionConfig:
    """The codecs of what crosses between a device and the server."""

    activations: CodecConfig = field(default_factory=CodecConfig)
    gradients: CodecConfig = field(default_factory=CodecConfig)
    models: CodecConfig = field(default_factory=CodecConfig)

    def __post_init__(self) -> None:
        for what, known in (("activations", CODECS), ("gradients", CODECS), ("models", MODEL_CODECS)):
            codec: CodecConfig = getattr(self, what)
            key, names = f"compression.{what}", [*known, CUSTOM]
            allowed = f"a known codec: {nearest(codec.name, names)}"
            require(codec.name in names, f"{key}.name", codec.name, allowed)
            custom = codec.name == CUSTOM
            target = f"the dotted name of a class with {key}.name=custom, null with the other codecs"
            require(custom == (codec._target_ is not None), f"{key}._target_", codec._target_, target)
