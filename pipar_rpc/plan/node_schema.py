"""The keys of what is local to a machine, their types and allowed values: `node`."""

import re
from dataclasses import dataclass
from pathlib import Path

from pipar_rpc.base.errors import require

DEVICE = "{device}"  # in a data root: stands for the device's number


@dataclass
class NodeConfig:
    """What is local to a machine; every rank reads it from its own command line.

    On one machine, rank 0 also sends the devices what the configuration's files say.
    """

    data_root: str = "data"
    download: bool = True
    device: str = "auto"
    threads: int = 1
    interface: str = "auto"
    trusted_network: bool = False
    allow_public: bool = False
    timeout_s: float = 300.0
    memory_limit: float | None = None

    def __post_init__(self) -> None:
        limit = self.memory_limit
        require(limit is None or limit > 0, "node.memory_limit", limit, "> 0 MB, or null for no limit")
        known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        require(known is not None, "node.device", self.device, "auto, cpu, cuda or cuda:i")
        require(self.threads >= 1, "node.threads", self.threads, ">= 1")
        require(self.timeout_s > 0, "node.timeout_s", self.timeout_s, "> 0 seconds")

    def data_path(self, number: int | None) -> Path:
        """The data root as a path; see the function of this name."""
        return data_path(self.data_root, number)


def data_path(root: str, number: int | None) -> Path:
    """A data root as a path: `~` expanded, `{device}` by the number, or `server` for None."""
    return Path(root.replace(DEVICE, str(number or "server"))).expanduser()
