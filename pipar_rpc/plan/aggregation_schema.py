"""The configuration of how often the devices' networks are aggregated, and by which rule."""

from dataclasses import dataclass, field
from typing import Any

from pipar_rpc.aggregation.rules import FEDAVG, RULES, RuleSpec
from pipar_rpc.base.errors import require
from pipar_rpc.plan.named import check_named


@dataclass
class RuleConfig:
    """The aggregation rule; see `pipar_rpc.aggregation.rules`, which checks its arguments."""

    name: str = FEDAVG
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_named("aggregation.rule", self, RULES, "rule")

    @property
    def spec(self) -> RuleSpec:
        """The rule as plain data."""
        return RuleSpec(self.name, self._target_, self.args)


@dataclass
class AggregationConfig:
    """How often the devices' networks are aggregated, and how."""

    every: int = -1
    rule: RuleConfig = field(default_factory=RuleConfig)
    fedprox_mu: float = 0.0

    def __post_init__(self) -> None:
        allowed = "-1 (once per epoch), 0 (never) or a number of iterations"
        require(self.every >= -1, "aggregation.every", self.every, allowed)
        require(self.fedprox_mu >= 0, "aggregation.fedprox_mu", self.fedprox_mu, ">= 0")
        fedavg = f"{FEDAVG} with aggregation.every=0, which never averages"
        require(self.every != 0 or self.rule.name == FEDAVG, "aggregation.rule.name", self.rule.name, fedavg)
