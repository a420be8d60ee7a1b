"""The workers of the RPC group, as this process knows them: where objects are placed, and who is lost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipar_rpc.plan.node import Node


@dataclass
class Process:
    """What the RPC handlers of this process share.

    Attributes:
        local: this machine, handed to the factories of objects that are placed here.
        names: RPC names of all ranks.
        lost: reasons why workers are lost, by name: they failed or kept silent. This is the only list of them
            while the group lasts; nobody waits for them again, in any job.
    """

    local: Node | None = None
    names: Sequence[str] = ()
    lost: dict[str, str] = field(default_factory=dict)


PROCESS = Process()


def reset(local: Node, names: Sequence[str]) -> None:
    """Prepares this process for a new RPC group."""
    PROCESS.local, PROCESS.names = local, names
    PROCESS.lost.clear()


def is_lost(name: str) -> bool:
    """Whether a worker was lost since the group came together."""
    return name in PROCESS.lost


class Place(NamedTuple):
    """Where an object is placed.

    Attributes:
        name: name of the object, for errors.
        worker: RPC name of the worker that holds it.
        at_once: number of objects made by the same factory there that may be busy at a time: they share so
            many threads.
    """

    name: str
    worker: str
    at_once: int = 1

    @classmethod
    def on_rank(cls, name: str, rank: int, at_once: int) -> "Place":
        """The place of an object on one of torchrun's ranks."""
        return cls(name, PROCESS.names[rank], at_once)
