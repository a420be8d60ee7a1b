"""The configuration of which devices train a round: `participation`."""

from dataclasses import dataclass, field
from typing import Any

from pipar_rpc.aggregation.participation import ParticipationSpec
from pipar_rpc.base.errors import require


@dataclass
class ParticipationConfig:
    """Which devices train a round; by default all of them."""

    fraction: float = 1.0
    per_round: int | None = None
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fraction, number = self.fraction, self.per_round
        require(0 < fraction <= 1, "participation.fraction", fraction, "above 0 and at most 1")
        require(number is None or number >= 1, "participation.per_round", number, ">= 1, or null")
        one = number is None or fraction == 1
        require(one, "participation.per_round", number, "null with participation.fraction below 1")
        alone = self._target_ is None or (fraction == 1 and number is None)
        require(alone, "participation._target_", self._target_, "null with a fraction or per_round")
        require(self._target_ is not None or not self.args, "participation.args", self.args, "empty")

    @property
    def chosen_by(self) -> tuple[str, object]:
        """The key by which not all devices train, and its value."""
        given = [name for name in ("_target_", "per_round") if getattr(self, name) is not None]
        by = (*given, "fraction")[0]
        return f"participation.{by}", getattr(self, by)

    @property
    def spec(self) -> ParticipationSpec:
        """The policy as plain data."""
        return ParticipationSpec(self.fraction, self.per_round, self._target_, self.args)
