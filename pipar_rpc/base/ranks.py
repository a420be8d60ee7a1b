"""Ranks: where a process is among those that torchrun started, and what it is called."""

import os
from dataclasses import dataclass

SERVER = "server"


def server_name(index: int) -> str:
    """RPC name of a server rank, counted from 0: "server", "server2", "server3", ..."""
    return f"{SERVER}{index + 1}" if index else SERVER


def worker_name(rank: int, num_servers: int = 1) -> str:
    """RPC name of a rank: "server", "server2", ... for the first ranks, then "device1", "device2", ..."""
    return server_name(rank) if rank < num_servers else f"device{rank - num_servers + 1}"


def holder_of(number: int, num_devices: int, num_servers: int) -> str:
    """RPC name of the server rank that holds a device's server half.

    Devices with consecutive numbers are together, for their networks are summed up there.

    Args:
        number: number of the device, 1..K.
        num_devices: K.
        num_servers: number of server ranks, 1..K.
    """
    return server_name((number - 1) * num_servers // num_devices)


@dataclass(frozen=True)
class World:
    """This process's place among those that torchrun started.

    Attributes:
        rank: rank of this process; the first ones are servers, and the others are devices.
        size: number of ranks.
        local_rank: rank among those on this machine.
        local_size: number of ranks on this machine.
        num_servers: number of server ranks.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    num_servers: int = 1

    @classmethod
    def from_environment(cls) -> "World":
        """Reads the variables that torchrun sets."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def name(self) -> str:
        """RPC name of this process."""
        return worker_name(self.rank, self.num_servers)

    @property
    def device(self) -> int | None:
        """Number of the device that this process is, from 1; None on a server rank."""
        return None if self.rank < self.num_servers else self.rank - self.num_servers + 1

    @property
    def one_machine(self) -> bool:
        """Whether all ranks run here."""
        return self.size == self.local_size
