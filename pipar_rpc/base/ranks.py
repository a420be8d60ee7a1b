"""Ranks: where a process is among those that torchrun started, and what it is called."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SERVER = "server"
DEVICE, WORKER = "device", "worker"  # ranks behind the servers, that hold one device each, or several


def server_name(index: int) -> str:
    """RPC name of a server rank, counted from 0: "server", "server2", "server3", ..."""
    return f"{SERVER}{index + 1}" if index else SERVER


def worker_name(rank: int, num_servers: int = 1, kind: str = DEVICE) -> str:
    """RPC name of a rank: "server", "server2", ... for the first ranks, then "device1", "device2", ...

    Args:
        rank: rank, from 0.
        num_servers: number of server ranks.
        kind: `WORKER` where ranks hold several devices: "worker1", "worker2", ...
    """
    return server_name(rank) if rank < num_servers else f"{kind}{rank - num_servers + 1}"


def device_name(number: int) -> str:
    """Name of a device, 1..K: that of its rank too, where each holds one."""
    return f"{DEVICE}{number}"


def as_list(names: Iterable[str]) -> str:
    """Names of devices for a line of text: "device1, device5 to device20"."""
    runs: list[list[int]] = []
    for number in sorted(int(name.removeprefix(DEVICE)) for name in names):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ends = [[device_name(number) for number in dict.fromkeys((run[0], run[-1]))] for run in runs]
    return ", ".join(" to ".join(end) for end in ends)


def workers_of(num_devices: int, num_workers: int, each: Sequence[int] | None = None) -> list[int]:
    """Number, from 0, of the rank behind the servers that holds each device.

    Devices with consecutive numbers are together. Where there are fewer devices than ranks, the last ranks
    hold none.

    Args:
        num_devices: K.
        num_workers: number of ranks that are no servers.
        each: number of devices on each of these ranks; None for evenly many.
    """
    if each is not None:
        return [worker for worker, count in enumerate(each) for _ in range(count)]
    used = min(num_devices, num_workers)
    return [number * used // num_devices for number in range(num_devices)]


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
        rank: rank of this process; the first ones are servers, and the others hold the devices.
        size: number of ranks.
        local_rank: rank among those on this machine.
        local_size: number of ranks on this machine.
        num_servers: number of server ranks.
        kind: what the others are called: `DEVICE`, or `WORKER` where they hold several devices.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    num_servers: int = 1
    kind: str = DEVICE

    @classmethod
    def from_environment(cls) -> "World":
        """Reads the variables that torchrun sets."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in names)
        return cls(rank, size, local_rank, local_size)

    @property
    def name(self) -> str:
        """RPC name of this process."""
        return self.names[self.rank]

    @property
    def names(self) -> list[str]:
        """RPC names of all ranks."""
        return [worker_name(rank, self.num_servers, self.kind) for rank in range(self.size)]

    @property
    def device(self) -> int | None:
        """Number of this process among those that hold devices, from 1; None on a server rank."""
        return None if self.rank < self.num_servers else self.rank - self.num_servers + 1

    @property
    def one_machine(self) -> bool:
        """Whether all ranks run here."""
        return self.size == self.local_size
