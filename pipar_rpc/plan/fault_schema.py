"""The configuration of what happens when processes are lost."""

from dataclasses import dataclass, field

from pipar_rpc.base.errors import require


@dataclass
class FaultConfig:
    """When a silent process is given up, and how many devices must be left."""

    timeout_s: float = 300.0
    deadline_factor: float = 10.0
    min_deadline_s: float = 20.0
    min_devices: int = 1
    leave: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.timeout_s > 0, "fault.timeout_s", self.timeout_s, "> 0 seconds")
        require(self.deadline_factor >= 1, "fault.deadline_factor", self.deadline_factor, ">= 1")
        require(self.min_deadline_s > 0, "fault.min_deadline_s", self.min_deadline_s, "> 0 seconds")
        require(self.min_devices >= 1, "fault.min_devices", self.min_devices, ">= 1")
        for device, number in self.leave.items():
            require(number >= 1, f"fault.leave.{device}", number, "the number of a round, from 1")


@dataclass
class CheckpointConfig:
    """How often the training is saved, and what is kept."""

    every: int = 1
    minutes: float = 0.0
    keep: int = 2
    max_mb: float | None = None

    def __post_init__(self) -> None:
        require(self.every >= 0, "checkpoint.every", self.every, ">= 0 rounds (0: no checkpoints)")
        require(self.minutes >= 0, "checkpoint.minutes", self.minutes, ">= 0 minutes")
        require(self.keep >= 1, "checkpoint.keep", self.keep, ">= 1")
        most = self.max_mb is None or self.max_mb > 0
        require(most, "checkpoint.max_mb", self.max_mb, "> 0 MB, or null for no limit")
