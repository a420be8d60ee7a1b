"""The keys of the emulated testbed, their types and allowed values: `network` and `testbed`."""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipar_rpc.base.errors import require
from pipar_rpc.testbed.link import MIN_MBPS

MAX_SLOWDOWN = 1e6


class TraceEnd(StrEnum):
    """What follows the last row of a bandwidth trace."""

    hold = "hold"
    loop = "loop"


@dataclass
class NetworkConfig:
    """The emulated links between each device and the server."""

    name: str = "none"
    uplink_mbps: float | None = None
    downlink_mbps: float | None = None
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    trace: str | None = None
    trace_end: TraceEnd = TraceEnd.hold

    def __post_init__(self) -> None:
        for key in ("uplink_mbps", "downlink_mbps"):
            value = getattr(self, key)
            require(
                value is None or MIN_MBPS <= value < math.inf,
                f"network.{key}",
                value,
                "> 0 Mbit/s, or null for no limit",
            )
        for key in ("latency_ms", "jitter_ms"):
            value = getattr(self, key)
            require(0 <= value < math.inf, f"network.{key}", value, ">= 0")

    @property
    def label(self) -> str:
        """The network's name in results: the preset's name, or the trace's."""
        return self.name if self.trace is None else Path(self.trace).stem


@dataclass
class TestbedConfig:
    """The emulated devices' speed; see `pipar_rpc.testbed.device_speed.SpeedSpec`."""

    name: str = "native"
    slowdown: float = 1.0
    calibrate_s: float | None = None
    profile: str | None = None
    time_scale: float = 1.0

    def __post_init__(self) -> None:
        require(
            0 < self.slowdown <= MAX_SLOWDOWN,
            "testbed.slowdown",
            self.slowdown,
            f"> 0, at most {MAX_SLOWDOWN:g}",
        )
        target = self.calibrate_s
        require(
            target is None or 0 < target < math.inf, "testbed.calibrate_s", target, "> 0 seconds, or null"
        )
        scale = self.time_scale
        require(0 < scale < math.inf, "testbed.time_scale", scale, "> 0")

    @property
    def label(self) -> str:
        """The devices' name in results: the profile's name, or the preset's with the slowdown."""
        if self.profile is not None:
            return Path(self.profile).stem
        return self.name if self.slowdown == 1 else f"{self.name}_x{self.slowdown:g}"
