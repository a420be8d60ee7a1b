"""The tables of launch.headline, as rows of text and as Markdown."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from launch.headline_values import COMPARED, LARGEST_DEVIATION, Case, Check, Figures
from pipar_rpc.results.published import PublishedChoice
from pipar_rpc.results.runs import shown

COLUMNS = ("split_point", "num_micro_batches", "iteration_s", "server_idle_s", "models_s", "epoch_s")
NOT_VALID = "NOT VALID"


class Table(NamedTuple):
    """Headings, and the cells row by row."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Writes the table as Markdown."""
        lines = [self.headings, ["---"] * len(self.headings), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def times_faster(case: Case, other: str) -> float:
    """By how many times PiPar's epoch is shorter than that of another strategy."""
    return case.of[other].epoch_s / case.of["pipar"].epoch_s


def times_less_idle(case: Case, other: str) -> float:
    """By how many times the server idles less in an epoch with PiPar than with another strategy."""
    idle_s = case.of["pipar"].epoch_idle_s
    return case.of[other].epoch_idle_s / idle_s if idle_s else float("inf")


def speed_table(cases: Sequence[Case]) -> Table:
    """Makes the table of iterations, and of how much shorter epochs and the server's idle times are."""
    headings = ["model", "K", "network", "figures", "FL s", "SFL s (P)", "PiPar s (P, N)"]
    headings += ["FL / PiPar", "SFL / PiPar", "server idle, FL / PiPar", "server idle, SFL / PiPar"]
    rows = []
    for case in cases:
        fl, sfl, pipar = (case.of[name] for name in COMPARED)
        cells = [case.place.model, str(case.place.num_devices), case.place.network, origin(case)]
        cells += [_s(fl), f"{_s(sfl)} ({sfl.split_point})"]
        cells.append(f"{_s(pipar)} ({pipar.split_point}, {pipar.num_micro_batches})")
        cells += [f"{times_faster(case, other):.2f}x" for other in ("fl", "sfl")]
        cells += [f"{times_less_idle(case, other):.2f}x" for other in ("fl", "sfl")]
        rows.append(cells)
    return Table(headings, rows)


def agreement_table(checks: Sequence[Check]) -> Table:
    """Makes the table of runs beside what the stage recurrence computes for them."""
    headings = ["model", "K", "network", "strategy", "P", "N", "measured s", "computed s", "deviation"]
    headings += ["server idle, measured s", "computed s"]
    rows = []
    for check in checks:
        place, measured, computed = check.place, check.measured, check.computed
        cells = [place.model, str(place.num_devices), place.network, check.strategy]
        cells += [str(measured.split_point), str(measured.num_micro_batches)]
        cells += [_s(measured), _s(computed), f"{check.deviation:+.1%}"]
        cells += [shown(own.server_idle_s) for own in (measured, computed)]
        rows.append(cells)
    return Table(headings, rows)


def verdict(checks: Sequence[Check]) -> str:
    """Says how far the recurrence is from what was run, and of which networks that is not near enough."""
    if not checks:
        return f"{NOT_VALID}: nothing was run with which the computed figures could be compared"
    ordered = sorted(checks, key=lambda check: -abs(check.deviation))
    worst: dict[tuple[str, int], Check] = {}
    for check in ordered:
        if not check.near:
            worst.setdefault((check.place.model, check.place.num_devices), check)
    near = f"{sum(own.near for own in checks)} of them within {LARGEST_DEVIATION:.0%}"
    compared = f"computed iterations from {len(checks)} measured ones, {near}"
    line = f"largest deviation of {compared}: {_far(ordered[0])}"
    if not worst:
        return line
    return f"{NOT_VALID}, as computed: {'; '.join(_far(check) for check in worst.values())}\n\n{line}"


def _far(check: Check) -> str:
    place = check.place
    where = f"{place.model}, K = {place.num_devices}, {place.network}, {check.strategy}"
    return f"{check.deviation:+.1%} ({where})"


def largest_lines(cases: Sequence[Case], published: Mapping[str, float]) -> list[str]:
    """Says which figures are largest, measured and computed, and what the largest published ones are."""
    lines = []
    for what, key, figure in (
        ("FL / PiPar", "speedup_over_fl", times_faster),
        ("server idle, FL / PiPar", "server_idle_over_fl", times_less_idle),
    ):
        for measured in (True, False):
            those = [case for case in cases if case.measured is measured and (measured or case.valid)]
            if those:
                best = max(those, key=lambda case: figure(case, "fl"))
                model, count, network = best.place
                where = f"{model}, K = {count}, {network}"
                lines.append(f"{what}, largest {origin(best)}: {figure(best, 'fl'):.1f}x ({where})")
        lines.append(f"{what}, published, other hardware: up to {published[key]:g}x")
    return lines


class Choice(NamedTuple):
    """A row of the paper's Table IV beside what is chosen here.

    Attributes:
        model, network: what was trained over which links.
        paper: epoch with the paper's formula.
        selected: epoch with this selector.
        run: epochs that were run on the same board, by the selector's method, in seconds.
        published: what the paper says.
    """

    model: str
    network: str
    paper: Figures
    selected: Figures
    run: Mapping[str, float]
    published: PublishedChoice


def choice_table(choices: Sequence[Choice]) -> Table:
    """Makes the table of what the paper's formula and the selector choose, beside the published times."""
    headings = ["model", "network", "paper's formula s (P, N)", "selector s (P, N)"]
    measured = any(choice.run for choice in choices)
    headings += ["formula, measured s", "selector, measured s"] if measured else []
    headings += ["published s (P, N)", "published optimum s (N)"]
    rows = []
    for choice in choices:
        known = choice.published
        cells = [choice.model, choice.network]
        cells += [
            f"{own.epoch_s:.1f} ({own.split_point}, {own.num_micro_batches})"
            for own in (choice.paper, choice.selected)
        ]
        if measured:
            runs = (choice.run.get(method) for method in ("paper", "exhaustive"))
            cells += ["" if seconds is None else f"{seconds:.1f}" for seconds in runs]
        cells.append(f"{known.epoch_s} ({known.split_point}, {known.num_micro_batches})")
        cells.append(f"{known.optimal_epoch_s} ({known.optimal_num_micro_batches})")
        rows.append(cells)
    return Table(headings, rows)


def write_csv(path: Path, cases: Sequence[Case]) -> None:
    """Writes a row for each case and strategy, times in seconds; ratios are those of epochs."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        ratios = ("times_as_long_as_pipar", "times_the_idle_of_pipar")
        writer.writerow(["model", "num_devices", "network", "figures", "strategy", *COLUMNS, *ratios])
        for case in cases:
            for name, own in case.of.items():
                values = [f"{getattr(own, column):.6g}" for column in COLUMNS]
                values += [f"{ratio(case, name):.6g}" for ratio in (times_faster, times_less_idle)]
                writer.writerow([*case.place, origin(case), name, *values])


def origin(case: Case) -> str:
    """Says whether a case was measured or computed, and whether that is valid."""
    if case.measured:
        return "measured"
    return "computed" if case.valid else f"computed, {NOT_VALID.lower()}"


def _s(figures: Figures) -> str:
    return f"{figures.iteration_s:.3f}"
