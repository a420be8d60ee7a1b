"""The score of the selector's choices, T(optimal) / T(selected), as `python -m pipar_rpc.score` shows it."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from pipar_rpc.results.runs import Case, Run, shown
from pipar_rpc.results.terminal import table

Cell = tuple[str, str]  # P and N; those of each device where they differ


class Score(NamedTuple):
    """One choice compared with the best one.

    Attributes:
        case: model, network, devices and testbed.
        among: split points that could be chosen: "all", or one.
        selected: P and N that were chosen.
        selected_s: epoch time with them.
        optimal: P and N of the shortest epoch.
        optimal_s: epoch time with them.
    """

    case: Case
    among: str
    selected: Cell
    selected_s: float
    optimal: Cell
    optimal_s: float

    @property
    def value(self) -> float:
        """The score: 1 for the best choice."""
        return self.optimal_s / self.selected_s


def cell(run: Run) -> Cell:
    """Returns P and N of a run."""
    return run.text("split_point"), run.text("num_micro_batches")


def grids(runs: Sequence[Run], iterations: int) -> dict[Case, dict[Cell, float]]:
    """Returns the median epoch time of every cell."""
    times: dict[Case, dict[Cell, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        times[run.case][cell(run)].append(run.epoch_s(iterations))
    return {
        case: {cut: statistics.median(seconds) for cut, seconds in cells.items()}
        for case, cells in times.items()
    }


def selected_cells(run: Run) -> dict[str, Cell]:
    """Returns what was chosen among all P, and for each P; of the first device."""
    with (run.folder / "selection.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == "1"]
    each = {row["split_point"]: (row["split_point"], row["num_micro_batches"]) for row in rows}
    return {"all": cell(run)} | each


def scores(runs: Sequence[Run], iterations: int) -> tuple[list[Score], list[str]]:
    """Returns the scores, and what was chosen but never run."""
    rated, missing = [], []
    every = grids(runs, iterations)
    chosen = {run.case: run for run in runs if (run.folder / "selection.csv").is_file()}
    for case, run in chosen.items():
        for among, cut in selected_cells(run).items():
            times = {other: t for other, t in every[case].items() if among in {"all", other[0]}}
            if cut not in times:
                missing.append(f"{case.setting}, {case.network}: P={cut[0]} N={cut[1]}")
                continue
            optimal = min(times, key=lambda other: times[other])
            rated.append(Score(case, among, cut, times[cut], optimal, times[optimal]))
    return rated, missing


def as_table(rated: Sequence[Score], every: Mapping[Case, Mapping[Cell, float]]) -> list[str]:
    """Writes a line for each score; `every` has the epoch times of all cells that were run."""
    rows = [
        [
            *(score.case.model, score.case.network, score.case.num_devices, score.among),
            *(f"P={score.selected[0]} N={score.selected[1]}", shown(score.selected_s)),
            *(f"P={score.optimal[0]} N={score.optimal[1]}", shown(score.optimal_s)),
            *(f"{score.value:.3f}", str(len(every[score.case]))),
        ]
        for score in rated
    ]
    headings = ["model", "network", "K", "among P", "selected", "epoch s", "optimal", "epoch s", "score"]
    return table([*headings, "cells run"], rows)


def draw(rated: Sequence[Score]) -> Figure:
    """Draws a panel for each case, a bar for each split point."""
    cases = list(dict.fromkeys(score.case for score in rated))
    figure = Figure(figsize=(3.2 * len(cases), 3.0), layout="constrained")
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        shown = [score for score in rated if score.case == case]
        bars = axes.bar([score.among for score in shown], [score.value for score in shown], color="#0072B2")
        axes.bar_label(bars, [f"{score.value:.2f}" for score in shown], fontsize=7)
        axes.set_title(f"{case.model}, {case.network}, K = {case.num_devices}", fontsize=9)
        axes.set_ylim(0, 1.1)
        axes.set_xlabel("split point P")
    figure.suptitle("T(optimal) / T(selected)")
    return figure
