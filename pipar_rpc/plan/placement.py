"""Which process holds which device, and whether devices keep their networks while others train."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.ranks import workers_of
from pipar_rpc.plan.device_job import DeviceJob, Placement
from pipar_rpc.plan.placement_schema import EACH
from pipar_rpc.plan.schema import Config


def number_of_devices(config: Any, num_workers: int) -> int:
    """K: as configured, or one device for each rank that is not a server.

    Args:
        config: configuration, checked or as it was composed.
        num_workers: number of ranks that are no servers.
    """
    return int(config.num_devices or sum(config.placement.devices_per_rank or [num_workers]))


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


def placed(jobs: Sequence[DeviceJob], config: Config, num_workers: int) -> list[DeviceJob]:
    """Returns the same jobs with the processes that hold the devices.

    Args:
        jobs: jobs of the devices.
        config: configuration of the job.
        num_workers: number of ranks that are no servers.
    """
    workers = workers_of(len(jobs), num_workers, config.placement.devices_per_rank)
    rests, held, before, found = _rest(config), Counter(workers), set[int](), []
    most = config.participation.spec.most(len(jobs)) if rests else len(jobs)
    for job, worker in zip(jobs, workers, strict=True):
        rank, count = config.num_servers + worker, held[worker]
        place = Placement(rank, count, worker not in before, min(count, most))
        found.append(replace(job, placed=place, rests=rests))
        before.add(worker)
    return found


def _rest(config: Config) -> bool:
    """Whether devices put their networks away while others train: not where halves are shared or cut anew."""
    stays = config.resolved_strategy.shared_half or config.selector.profile_iterations > 0
    return not (config.participation.spec.everyone or stays)
