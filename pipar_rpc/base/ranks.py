"""Ranks: where a process is among those that torchrun started, and what it is called."""

import os
from dataclasses import dataclass

SERVER = "server"


def worker_name(rank: int) -> str:
    """RPC name of a rank: "server" or "device<rank>"."""
    return SERVER if rank == 0 else f"device{rank}"


@dataclass(frozen=True)
class World:
    """This process's place among those that torchrun started."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @classmethod
    def from_environment(cls) -> "World":
        """Reads the variables that torchrun sets."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def one_machine(self) -> bool:
        """Whether all ranks run here."""
        return self.size == self.local_size
