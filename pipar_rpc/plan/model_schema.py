"""The keys of the network, their types and allowed values: `model`."""

from dataclasses import dataclass, field
from typing import Any

from pipar_rpc.base.errors import nearest, require
from pipar_rpc.models import CUSTOM, MODELS, Norm


@dataclass
class ModelConfig:
    """The network."""

    name: str = "vgg5"
    norm: Norm = Norm.batch
    weights: str | None = None
    strict_weights: bool = True
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*MODELS, CUSTOM]
        require(self.name in names, "model.name", self.name, f"a known model: {nearest(self.name, names)}")
        is_custom = self.name == CUSTOM
        target = "the dotted name of a function with model=custom, null with the other models"
        require(is_custom == (self._target_ is not None), "model._target_", self._target_, target)
        require(is_custom or not self.args, "model.args", self.args, "empty but with model=custom")
