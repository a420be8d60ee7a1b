"""Where devices are: the key `placement`, and the ranks that follow from it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipar_rpc.base.errors import ConfigError, require
from pipar_rpc.base.ranks import workers_of

EACH = "placement.devices_per_rank"


@dataclass
class PlacementConfig:
    """How many devices each rank behind the servers holds."""

    devices_per_rank: list[int] | None = None

    def __post_init__(self) -> None:
        each = self.devices_per_rank
        counts = each is None or (sum(each) > 0 and min(each) >= 0)
        require(counts, EACH, each, "numbers of devices, not all 0, or null for evenly many")


@dataclass(frozen=True)
class Placement:
    """The process that holds a device.

    Attributes:
        rank: its rank among torchrun's.
        devices: number of devices that it holds.
        first: whether the device is the first of them.
        at_once: number of them that may train at the same time.
    """

    rank: int = 1
    devices: int = 1
    first: bool = True
    at_once: int = 1


ALONE = Placement()


def number_of_devices(config: Any, num_workers: int) -> int:
    """K: as configured, or one device for each rank that is not a server.

    Args:
        config: configuration, checked or as it was composed.
        num_workers: number of ranks that are no servers.
    """
    return config.num_devices or sum(config.placement.devices_per_rank or [num_workers])


def check_placement(each: Sequence[int] | None, num_devices: int, num_workers: int, started: str) -> None:
    """Raises ConfigError unless devices can be placed so.

    Args:
        each: number of devices on each rank that is not a server; None for evenly many.
        num_devices: K.
        num_workers: number of those ranks.
        started: words that tell how many ranks there are.
    """
    if each is not None and len(each) > num_workers:
        raise ConfigError(EACH, list(each), f"at most {num_workers} numbers ({started})")
    if each is not None and sum(each) != num_devices:
        raise ConfigError(EACH, list(each), f"numbers that add up to num_devices={num_devices}")


def placements(
    num_devices: int, num_servers: int, num_workers: int, each: Sequence[int] | None, in_round: int
) -> list[Placement]:
    """The place of each device.

    Args:
        num_devices: K.
        num_servers: number of server ranks.
        num_workers: number of the other ranks.
        each: number of devices on each of these; None for evenly many.
        in_round: largest number of devices that train a round.
    """
    workers = workers_of(num_devices, num_workers, each)
    held, before = Counter(workers), set[int]()
    placed = []
    for worker in workers:
        count = held[worker]
        placed.append(Placement(num_servers + worker, count, worker not in before, min(count, in_round)))
        before.add(worker)
    return placed
