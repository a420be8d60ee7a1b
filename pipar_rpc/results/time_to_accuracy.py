"""How soon methods reach an accuracy: the mean over their runs, which differ in nothing but the seed."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipar_rpc.results.csv_table import cell
from pipar_rpc.results.runs import ORDER, UNCOMPRESSED, UNPROTECTED, Run

ACCURACIES = ("test_accuracy", "val_accuracy")  # the first that was measured is compared


class Problem(NamedTuple):
    """What is the same for all methods compared with each other; the columns of results.csv."""

    model: str
    network: str
    num_devices: str
    testbed: str
    data: str
    partition: str


class Spread(NamedTuple):
    """A mean with the standard deviation of a sample; of a single figure, the deviation is NaN."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Returns that of some figures; NaN without any."""
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values) if values else math.nan, deviation)


class Reached(NamedTuple):
    """The first epoch of a run that has an accuracy, and the seconds of training until its end."""

    epoch: int
    seconds: float


def first_to_reach(run: Run, column: str, target: float) -> Reached | None:
    """Finds where a run reaches an accuracy (0..1); returns None if it does not."""
    points, least = run.over_time(column).items(), float(cell(target))  # rounded as the run's figures are
    return next((Reached(epoch, time) for epoch, (time, value) in points if value >= least), None)


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: strategy with its P and N, and whatever else tells the method from others.
        strategy: name of the strategy.
        runs: runs of the method.
    """

    label: str
    strategy: str
    runs: tuple[Run, ...]

    def reached(self, column: str, target: float) -> list[Reached]:
        """Returns where the runs reach an accuracy (0..1), without those that do not."""
        found = [first_to_reach(run, column, target) for run in self.runs]
        return [reached for reached in found if reached is not None]

    def mean_curve(self, column: str) -> list[tuple[float, Spread]]:
        """Returns time and accuracy of the epochs that all runs have evaluated, means over the runs."""
        curves = [run.over_time(column) for run in self.runs]
        shared = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
        points = [[curve[epoch] for curve in curves] for epoch in shared]
        return [
            (statistics.fmean(time for time, _ in at), Spread.of([value for _, value in at])) for at in points
        ]


@dataclass(frozen=True)
class Comparison:
    """Methods that learn the same.

    Attributes:
        problem: what they learn, and on which devices and links.
        column: accuracy that is compared, a column of results.csv.
        target: accuracy whose time is compared, 0..1.
        methods: methods, in the order of a report.
    """

    problem: Problem
    column: str
    target: float
    methods: tuple[Method, ...]

    def seconds(self, method: Method) -> Spread:
        """Returns the time until the target, of the runs that reach it."""
        return Spread.of([reached.seconds for reached in method.reached(self.column, self.target)])

    def is_complete(self, method: Method) -> bool:
        """Whether all runs of a method reach the target."""
        return len(method.reached(self.column, self.target)) == len(method.runs)

    @property
    def reference(self) -> Method | None:
        """The method with which the others are compared: `fl`, or else the slowest; it reaches the target."""
        complete = sorted(
            filter(self.is_complete, self.methods), key=lambda method: self.seconds(method).mean
        )
        if len(self.methods) < 2 or not complete:
            return None
        return next((method for method in complete if method.strategy == "fl"), complete[-1])


def compare(runs: Sequence[Run], target: float | None = None) -> list[Comparison]:
    """Compares runs problem by problem; leaves out those that were never evaluated.

    Args:
        runs: runs, as `load` returns them.
        target: accuracy whose time is compared, 0..1. By default that at which the jobs were to end (the
            smallest, if they differ), and without one the highest that all runs have reached.
    """
    problems: dict[Problem, list[Run]] = defaultdict(list)
    for run in runs:
        problems[Problem(*map(run.text, Problem._fields))].append(run)
    comparisons = []
    for problem, all_runs in problems.items():
        ends = {column for run in all_runs for column in run.targets}
        for column in [name for name in ACCURACIES if name in ends] or ACCURACIES:
            evaluated = [run for run in all_runs if run.over_time(column)]
            if evaluated:
                reached = target or _common_target(evaluated, column)
                comparisons.append(Comparison(problem, column, reached, _methods(evaluated)))
                break
    return comparisons


def _common_target(runs: Sequence[Run], column: str) -> float:
    wanted = [run.targets[column] for run in runs if column in run.targets]
    return min(wanted or [max(value for _, value in run.over_time(column).values()) for run in runs])


def _label(run: Run) -> str:
    chosen = run.method.get("selector.profile_iterations", "0") != "0"  # then they may differ between seeds
    cuts = f"{run.strategy}, P and N chosen" if chosen else run.label
    named = (run.text("compression"), UNCOMPRESSED), (run.text("privacy"), UNPROTECTED)
    return ", ".join([cuts, *(text for text, usual in named if text != usual)])


def _methods(runs: Sequence[Run]) -> tuple[Method, ...]:
    """Groups runs whose settings are the same, and labels the groups by what tells them apart."""
    named: dict[str, dict[tuple[object, ...], list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        named[_label(run)][run.text("batch_size"), *sorted(run.method.items())].append(run)
    methods = []
    for label, groups in named.items():
        settings = [group[0].method for group in groups.values()]
        keys = sorted({key for each in settings for key in each})
        differing = [key for key in keys if len({each.get(key) for each in settings}) > 1]
        for group in groups.values():
            own = [f"{key}={group[0].method.get(key, '')}" for key in differing]
            methods.append(Method(", ".join([label, *own]), group[0].strategy, tuple(group)))
    return tuple(sorted(methods, key=lambda method: ORDER.index(method.strategy)))  # otherwise as in `runs`
