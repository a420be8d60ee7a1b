"""How good the selector's choices are: T(optimal) / T(selected), as `python -m pipar_rpc.score` shows it."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from pipar_rpc.results.runs import Case, Run, shown
from pipar_rpc.results.terminal import table

Cell = tuple[str, str]  # P, N; of each device where they differ


class Score(NamedTuple):
    """One choice beside the best one.

    Attributes:
        case: model, network, devices and testbed.
        among: split points from which was chosen: "all", or one.
        selected: P and N that were chosen.
        selected_s: epoch time with them.
        optimal: P and N of the shortest epoch.
        optimal_s: its time.
    """

    case: Case
    among: str
    selected: Cell
    selected_s: float
    optimal: Cell
    optimal_s: float

    @property
    def value(self) -> float:
        """1 for the best choice."""
        return self.optimal_s / self.selected_s


def cell(run: Run) -> Cell:
    """P and N of a run."""
    return run.text("split_point"), run.text("num_micro_batches")


def grids(runs: Sequence[Run], iterations: int) -> dict[Case, dict[Cell, float]]:
    """The median epoch time of every cell."""
    times: dict[Case, dict[Cell, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        times[run.case][cell(run)].append(run.epoch_s(iterations))
    return {
        case: {cut: statistics.median(found) for cut, found in own.items()} for case, own in times.items()
    }


def selected_cells(run: Run) -> dict[str, Cell]:
    """What was chosen among all P, and for each P; of the first device."""
    with (run.folder / "selection.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == "1"]
    each = {row["split_point"]: (row["split_point"], row["num_micro_batches"]) for row in rows}
    return {"all": cell(run)} | each


def scores(runs: Sequence[Run], iterations: int) -> tuple[list[Score], list[str]]:
    """The scores, and what was chosen but never run."""
    found, missing = [], []
    every = grids(runs, iterations)
    chosen = {run.case: run for run in runs if (run.folder / "selection.csv").is_file()}
    for case, run in chosen.items():
        for among, cut in selected_cells(run).items():
            times = {own: t for own, t in every[case].items() if among in {"all", own[0]}}
            if cut not in times:
                missing.append(f"{case.setting}, {case.network}: P={cut[0]} N={cut[1]}")
                continue
            optimal = min(times, key=lambda own: times[own])
            found.append(Score(case, among, cut, times[cut], optimal, times[optimal]))
    return found, missing


def as_table(found: Sequence[Score], every: Mapping[Case, Mapping[Cell, float]]) -> list[str]:
    """A line for each score; `every` has the epoch times of all cells that were run."""
    rows = [
        [
            *(score.case.model, score.case.network, score.case.num_devices, score.among),
            *(f"P={score.selected[0]} N={score.selected[1]}", shown(score.selected_s)),
            *(f"P={score.optimal[0]} N={score.optimal[1]}", shown(score.optimal_s)),
            *(f"{score.value:.3f}", str(len(every[score.case]))),
        ]
        for score in found
    ]
    headings = ["model", "network", "K", "among P", "selected", "epoch s", "optimal", "epoch s", "score"]
    return table([*headings, "cells run"], rows)


def draw(found: Sequence[Score]) -> Figure:
    """A panel for each case, a bar for each split point."""
    cases = list(dict.fromkeys(score.case for score in found))
    figure = Figure(figsize=(3.2 * len(cases), 3.0), layout="constrained")
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        own = [score for score in found if score.case == case]
        bars = axes.bar([score.among for score in own], [score.value for score in own], color="#0072B2")
        axes.bar_label(bars, [f"{score.value:.2f}" for score in own], fontsize=7)
        axes.set_title(f"{case.model}, {case.network}, K = {case.num_devices}", fontsize=9)
        axes.set_ylim(0, 1.1)
        axes.set_xlabel("split point P")
    figure.suptitle("T(optimal) / T(selected)")
    return figure
