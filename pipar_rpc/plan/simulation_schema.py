"""The keys of `python -m pipar_rpc.simulate`, which a training does not read: `simulation`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipar_rpc.base.errors import ConfigError, as_number, require
from pipar_rpc.plan.server_schema import Half
from pipar_rpc.testbed.distribution import DISTRIBUTIONS, Distribution

NUMBERS = {"constant": 1, "uniform": 2, "lognormal": 1}  # that a distribution has; "choice" any
FACTORS = ("slowdown", "uplink", "downlink", "latency", "samples")
LEAST, MOST, MOST_SIGMA = 1e-9, 1e9, 10.0  # so that all times are numbers
FORMS = "[constant,F], [uniform,LOW,HIGH], [lognormal,SIGMA] or [choice,F1,F2,...], F 1e-9..1e9, SIGMA 0..10"


def _alike() -> list[Any]:
    return ["constant", 1.0]


@dataclass
class SimulationConfig:
    """How simulated devices differ, and what the server has; see docs/simulation.md."""

    slowdown: list[Any] = field(default_factory=_alike)
    uplink: list[Any] = field(default_factory=_alike)
    downlink: list[Any] = field(default_factory=_alike)
    latency: list[Any] = field(default_factory=_alike)
    samples: list[Any] = field(default_factory=_alike)
    traces: list[str] = field(default_factory=list)
    trace_shift_s: float = 0.0
    drop_probability: float = 0.0
    return_probability: float = 0.0
    notice_s: float = 0.0
    server_half: Half | None = None
    server_cores: float | None = None
    server_slowdown: float = 1.0
    server_profile: str | None = None
    facts: str | None = None
    scan: bool = True
    max_micro_batches: int = 5_000_000

    def __post_init__(self) -> None:
        for name in FACTORS:
            self.distribution(name)
        for name in ("trace_shift_s", "notice_s"):
            seconds = getattr(self, name)
            require(0 <= seconds < math.inf, f"simulation.{name}", seconds, ">= 0 seconds")
        for name in ("drop_probability", "return_probability"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"simulation.{name}", share, "0..1")
        cores, slowdown = self.server_cores, self.server_slowdown
        known = cores is None or 0 < cores < math.inf
        require(known, "simulation.server_cores", cores, "> 0, or null for this machine's")
        require(0 < slowdown < math.inf, "simulation.server_slowdown", slowdown, "> 0")
        one = self.facts is None or self.server_profile is None
        require(one, "simulation.server_profile", self.server_profile, "null with simulation.facts")
        most = self.max_micro_batches
        require(most >= 1, "simulation.max_micro_batches", most, ">= 1")

    def distribution(self, name: str) -> Distribution:
        """Returns one of `FACTORS` as plain data; raises ConfigError."""
        given: Sequence[Any] = getattr(self, name)
        kind, *values = [*given] or [""]
        numbers = tuple(map(as_number, values))
        fits = kind in DISTRIBUTIONS and len(numbers) == NUMBERS.get(kind, max(1, len(numbers)))
        least, most = (0.0, MOST_SIGMA) if kind == "lognormal" else (LEAST, MOST)
        if not fits or not all(least <= number <= most for number in numbers):
            raise ConfigError(f"simulation.{name}", _shown(given), FORMS)
        if kind == "uniform" and numbers[0] > numbers[1]:
            raise ConfigError(f"simulation.{name}", _shown(given), "[uniform,LOW,HIGH] with LOW <= HIGH")
        return Distribution(kind, numbers)


def _shown(given: Sequence[Any]) -> str:
    return f"[{','.join(map(str, given))}]"
