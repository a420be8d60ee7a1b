"""The keys of the network, their types and allowed values: `model`."""

from dataclasses import dataclass, field
from typing import Any

from pipar_rpc.base.errors import require
from pipar_rpc.models import CUSTOM, MODELS, Norm
from pipar_rpc.models.freezing import frozen_of
from pipar_rpc.plan.named import check_named


@dataclass
class ModelConfig:
    """The network."""

    name: str = "vgg5"
    norm: Norm = Norm.batch
    weights: str | None = None
    strict_weights: bool = True
    freeze: Any = field(default_factory=list)  # a number, or a list of names
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_named("model", self, MODELS, "model")
        require(self.name == CUSTOM or not self.args, "model.args", self.args, "empty but with model=custom")
        frozen_of(self.freeze)
