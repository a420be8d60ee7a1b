"""The configuration of how often the devices' networks are aggregated, and by which rule."""

from dataclasses import dataclass, field
from typing import Any

from pipar_rpc.aggregation.rules import CUSTOM, FEDAVG, RULES, RuleSpec
from pipar_rpc.base.errors import nearest, require


@dataclass
class RuleConfig:
    """The aggregation rule; see `pipar_rpc.aggregation.rules`, which checks its arguments."""

    name: str = FEDAVG
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*RULES, CUSTOM]
        known = f"a known rule: {nearest(self.name, names)}"
        require(self.name in names, "aggregation.rule.name", self.name, known)
        is_custom = self.name == CUSTOM
        target = "the dotted name of a function with aggregation/rule=custom, null with the other rules"
        require(is_custom == (self._target_ is not None), "aggregation.rule._target_", self._target_, target)

    @property
    def spec(self) -> RuleSpec:
        """The rule as plain data."""
        return RuleSpec(self.name, self._target_, self.args)


@dataclass
class AggregationConfig:
    """How often the devices' networks are aggregated, and how."""

    every: int = -1
    rule: RuleConfig = field(default_factory=RuleConfig)

    def __post_init__(self) -> None:
        allowed = "-1 (once per epoch), 0 (never) or a number of iterations"
        require(self.every >= -1, "aggregation.every", self.every, allowed)
        fedavg = f"{FEDAVG} with aggregation.every=0, which never averages"
        require(self.every != 0 or self.rule.name == FEDAVG, "aggregation.rule.name", self.rule.name, fedavg)
