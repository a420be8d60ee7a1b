"""The configuration of how activations, their gradients and models are compressed: `compression`."""

from dataclasses import dataclass, field
from typing import Any

from pipar_rpc.compression.models import MODEL_CODECS
from pipar_rpc.compression.registry import CODECS, NONE, CodecSpec
from pipar_rpc.plan.named import check_named


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
            check_named(f"compression.{what}", codec, known, "codec")
