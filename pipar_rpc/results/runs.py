"""Reads results files as runs that can be compared. Every number of a report comes from here."""

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipar_rpc.base.errors import UserError
from pipar_rpc.base.nested import by_dotted_keys
from pipar_rpc.results.run_files import CONFIG, ROWS, runs_in

ORDER = ("fl", "sl", "sfl", "pipar")
UNCOMPRESSED = "none"  # also the runs of versions without codecs
UNPROTECTED = "none"  # also the runs of versions without privacy mechanisms
NETWORKS = ("4g", "4g_plus", "wifi", "none")
NO_METHOD = (  # keys in which runs of one method may differ; P and N are in the label
    *("seed", "epochs", "until", "pipeline", "timeline", "enable_val", "enable_test", "enable_device_val"),
    *("node", "resume", "overwrite", "checkpoint", "experiment_name", "objective", "simulation"),
)


def shown(value: float) -> str:
    """Formats a figure with three digits, or with all before the point; nothing for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Case(NamedTuple):
    """The settings that are the same for all strategies compared with each other."""

    model: str
    network: str
    num_devices: str
    testbed: str
    compression: str
    privacy: str

    @property
    def setting(self) -> str:
        """The settings without the network, as text."""
        codecs = "" if self.compression == UNCOMPRESSED else f", {self.compression}"
        privacy = "" if self.privacy == UNPROTECTED else f", {self.privacy}"
        return f"{self.model}, K = {self.num_devices}, {self.testbed}{codecs}{privacy}"

    @property
    def place(self) -> tuple[str, str, int, str, str, tuple[int, str]]:
        """The key that sorts cases as a report does."""
        known = NETWORKS.index(self.network) if self.network in NETWORKS else len(NETWORKS)
        compression = "" if self.compression == UNCOMPRESSED else self.compression
        privacy = "" if self.privacy == UNPROTECTED else self.privacy
        return self.testbed, self.model, -int(self.num_devices), compression, privacy, (known, self.network)


@dataclass(frozen=True)
class Run:
    """One job.

    An epoch's figures can be given for another number of iterations than were run: each iteration takes what
    it took, and models travel and are averaged as often as they were.
    """

    folder: Path
    rows: tuple[dict[str, str], ...]

    def text(self, column: str) -> str:
        """Returns the last epoch's cell."""
        default = {"compression": UNCOMPRESSED, "privacy": UNPROTECTED}.get(column, "")
        return self.rows[-1].get(column) or default

    def curve(self, column: str) -> list[float]:
        """Returns the figures of all epochs that have one."""
        return [float(row[column]) for row in self.rows if row[column]]

    def over_time(self, column: str) -> dict[int, tuple[float, float]]:
        """Returns, by epoch, the seconds of training until its end, and a figure, where there is one."""
        times = accumulate(float(row["epoch_time_s"]) for row in self.rows)
        return {
            int(row["epoch"]): (time, float(row[column]))
            for row, time in zip(self.rows, times, strict=True)
            if row.get(column)
        }

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The configuration, section by section; empty if config.yaml is not there."""
        path = self.folder / CONFIG
        read = (
            yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            if path.exists()
            else {}
        )
        return read if isinstance(read, Mapping) else {}

    @cached_property
    def method(self) -> dict[str, str]:
        """The settings by dotted keys, without those in which runs of one method may differ."""
        chosen = {key: value for key, value in self.settings.items() if key not in NO_METHOD}
        return {key: json.dumps(value, default=str) for key, value in by_dotted_keys(chosen).items()}

    @property
    def targets(self) -> dict[str, float]:
        """The accuracies, 0..1, at which the job was to end, by column."""
        until = self.settings.get("until") or {}
        return {column: float(target) for column, target in until.items() if target is not None}

    def median(self, column: str) -> float:
        """Returns the median over epochs; NaN without a figure."""
        values = self.curve(column)
        return statistics.median(values) if values else float("nan")

    @property
    def case(self) -> Case:
        """The settings that this run shares with those that it is compared with."""
        return Case(*map(self.text, Case._fields))

    @property
    def strategy(self) -> str:
        """The name of the strategy: `fl`, `sl`, `sfl` or `pipar`."""
        return self.text("strategy")

    @property
    def label(self) -> str:
        """The strategy with its P and N."""
        split_point, parts = self.text("split_point"), self.text("num_micro_batches")
        chosen = {"fl": "", "pipar": f" P={split_point} N={parts}"}
        return self.strategy + chosen.get(self.strategy, f" P={split_point}")

    @property
    def iterations(self) -> int:
        """The number of iterations that were run in the last epoch."""
        return int(self.text("iterations"))

    def epoch_s(self, iterations: int) -> float:
        """Returns the seconds of an epoch of `iterations`."""
        training = self.median("training_time_s")
        moving = self.median("epoch_time_s") - training
        return moving + training * iterations / self.iterations

    def idle_s(self, who: str, iterations: int) -> float:
        """Returns the idle seconds of the `server` or the `device` in an epoch of `iterations`."""
        busy = self.median("epoch_time_s") - self.median(f"{who}_idle_s")
        return self.epoch_s(iterations) - busy * iterations / self.iterations

    def mbps(self, link: str, iterations: int) -> float:
        """Returns the Mbit/s of `uplink` or `downlink`, all devices together, in an epoch of `iterations`."""
        models = self.median("model_bytes")
        other = (self.median(f"{link}_bytes") - models) * iterations / self.iterations
        return (models + other) * 8e-6 / self.epoch_s(iterations)


def load(folders: Sequence[Path]) -> list[Run]:
    """Reads all runs below the folders, in the order of a report.

    Raises:
        UserError: there is no run.
    """
    runs = []
    tables = {run / ROWS for folder in folders for run in runs_in(folder)}  # none that is being replaced
    for path in sorted(table for table in tables if table.exists()):
        with path.open(newline="") as file:
            rows = tuple(csv.DictReader(file))
        if rows:
            runs.append(Run(path.parent, rows))
    if not runs:
        raise UserError(f"no results.csv with rows below {', '.join(map(str, folders))}")
    return sorted(runs, key=lambda run: (run.case.place, ORDER.index(run.strategy), run.label))


def best(runs: Sequence[Run], iterations: int) -> dict[Case, dict[str, Run]]:
    """Finds for each case the fastest run of each strategy; `runs` are as `load` returns them."""
    cases: dict[Case, dict[str, Run]] = {}
    for run in runs:
        by_strategy = cases.setdefault(run.case, {})
        known = by_strategy.get(run.strategy)
        if known is None or run.epoch_s(iterations) < known.epoch_s(iterations):
            by_strategy[run.strategy] = run
    return cases
