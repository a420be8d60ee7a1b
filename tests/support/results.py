"""Results: what jobs wrote, and results files that are made up."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipar_rpc.results.columns import COLUMNS
from tests.support.processes import Processes

# Four devices, 3 iterations of 2 s and 4 s for models; in each the server computes 0.5 s, a device 1.5 s.
PIPAR = {
    **{"strategy": "pipar", "model": "vgg5", "network": "4g", "testbed": "pi", "num_devices": 4, "data": "x"},
    **{"split_point": 1, "num_micro_batches": 5, "iterations": 3, "epoch_time_s": 10, "iteration_time_s": 2},
    **{"server_idle_s": 8.5, "device_idle_s": 5.5, "uplink_bytes": 7e6, "downlink_bytes": 4e6},
    **{"model_bytes": 1e6, "train_loss": 2.5, "efficiency": 0.9, "training_time_s": 6},
}


def write(folder: Path, *rows: Mapping[str, Any]) -> None:
    """A new folder with a results.csv."""
    folder.mkdir(parents=True)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def job_dirs(processes: Processes) -> dict[int, Path]:
    """Output folders of a sweep by job number."""
    return {
        int(path.name.split("_")[0]): path for path in processes.directory.glob("outputs/*/*_multirun/*_*_*")
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a job's results.csv."""
    with (path / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(first: Path, second: Path) -> None:
    """Two jobs' networks, bit for bit: the last ones and the best."""
    for name in ("model.pt", "model_best.pt"):
        one, two = (torch.load(path / name, weights_only=True) for path in (first, second))
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []


SFL = PIPAR | {"strategy": "sfl", "num_micro_batches": 1, "epoch_time_s": 13, "training_time_s": 9}


FL = PIPAR | {"strategy": "fl", "split_point": 5, "epoch_time_s": 22, "training_time_s": 18}


SL = PIPAR | {"strategy": "sl", "epoch_time_s": 24.4, "training_time_s": 24}


def files(folder: Path) -> dict[str, bytes]:
    """Contents by the paths at which they were before anything was moved."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in {".lock", ".pipar_rpc"}:
            name = path.relative_to(folder).as_posix()
            found[name.removeprefix("replaced.partial/").removeprefix("replaced/")] = path.read_bytes()
    return found
