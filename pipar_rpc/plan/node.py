"""What is local to the machine on which a process runs."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.plan.node_schema import DEVICE, NodeConfig, data_path


@dataclass(frozen=True)
class Node:
    """This process's machine.

    Attributes:
        data_root: folder of the data sets.
        given_root: value of `node.data_root` as it was given, for errors.
        download: whether missing data sets may be downloaded.
        device: torch device on which this process computes.
        memory_limit_mb: memory that a process may take which holds devices, in 10^6 bytes; None for no limit.
    """

    data_root: Path
    given_root: str
    download: bool
    device: torch.device
    memory_limit_mb: float | None = None

    def of_device(self, number: int) -> "Node":
        """Returns the same machine with the data root of device `number`, if each has one of its own."""
        own = DEVICE in self.given_root
        return replace(self, data_root=data_path(self.given_root, number)) if own else self


def prepare(config: NodeConfig, number: int | None, local_rank: int) -> Node:
    """Sets torch up in this process and returns its node; raises ConfigError for a missing GPU.

    "auto" takes a GPU if there is one; several processes of one machine take its GPUs in turn.

    Args:
        config: keys of the node.
        number: number of the device that this process is, from 1; None on a server rank.
        local_rank: rank among those on this machine.
    """
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True  # one seed, one result
    available = torch.cuda.device_count()
    name = config.device
    if name == "auto":
        name = f"cuda:{local_rank % available}" if available else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise ConfigError("node.device", name, f"auto, cpu or one of this machine's {available} GPUs")
    root = config.data_path(number)
    return Node(root, config.data_root, config.download, device, config.memory_limit)
