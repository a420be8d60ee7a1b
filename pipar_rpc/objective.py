"""What a sweeper is told of each job, its objective; which jobs are composed before a sweep starts."""

import math
from collections.abc import Sequence
from itertools import product
from statistics import fmean

from pipar_rpc.base.errors import nearest, require
from pipar_rpc.results.columns import COLUMNS, Row

OPTIMISERS = (
    "optuna",
    "nevergrad",
    "_ax_",
    "orion",
)  # in the names of sweepers that need a number of each job


def variants(choices: Sequence[Sequence[str]], together: Sequence[bool]) -> list[list[str]]:
    """The overrides of jobs in which each value of a sweep occurs.

    Args:
        choices: each override as those of single jobs.
        together: whether the values of each override are wanted in all combinations; else once, beside the
            first ones of the others.

    Returns:
        The overrides of single jobs, the first values first.
    """
    combined = [values if both else values[:1] for values, both in zip(choices, together, strict=True)]
    found = [list(combination) for combination in product(*combined)]
    for index, values in enumerate(choices):
        if not together[index]:
            found += [[*found[0][:index], value, *found[0][index + 1 :]] for value in values[1:]]
    return found


def check_objective(objective: str | None, sweeper: str) -> None:
    """Raises ConfigError unless a sweeper can be told this, and is told something if it optimises.

    Args:
        objective: the configuration's.
        sweeper: name of its class; empty for a single job.
    """
    figures = [name for name, column in COLUMNS.items() if column.figure]
    needed = any(name in sweeper for name in OPTIMISERS)
    figure = f"a figure of results.csv: {nearest(str(objective), figures)}"
    allowed = f"{'' if needed else 'null or '}{figure}"
    require(objective in figures or (objective is None and not needed), "objective", objective, allowed)


def last_figure(rows: Sequence[Row], column: str) -> float:
    """What a column says of a job in the end: in the last epoch that has a figure.

    Returns:
        The figure, or the mean of those of the devices; NaN if there is none.
    """
    for row in reversed(rows):
        value = row.get(column)
        figures = [part for part in (value if isinstance(value, tuple) else (value,)) if part is not None]
        if figures:
            return fmean(figures)
    return math.nan


def for_sweeper(value: float | None, sweeper: str) -> float | None:
    """A job's figure as the sweeper whose class has this name takes it.

    Optuna's ends at NaN; what is no number at all is a failed trial for it, after which it goes on.
    """
    return None if value is not None and math.isnan(value) and "optuna" in sweeper else value
