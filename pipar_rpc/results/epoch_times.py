"""Accuracies of runs that were trained once, over the epoch times that the same methods take elsewhere.

Neither an emulated testbed nor a link changes what is learned. So a long training need not wait for them: a
few iterations on each testbed tell how long its epochs would take.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from pipar_rpc.base.errors import UserError
from pipar_rpc.results.runs import Run

PLACE = ("network", "testbed")  # columns that say where epochs take how long


class _Method(NamedTuple):
    """What must be the same for epochs to take equally long on the same testbed."""

    label: str
    model: str
    num_devices: str
    batch_size: str
    compression: str
    privacy: str

    @classmethod
    def of(cls, run: Run) -> "_Method":
        return cls(run.label, *map(run.text, cls._fields[1:]))

    def __str__(self) -> str:
        size = f"K = {self.num_devices}, batch size {self.batch_size}"
        how = f"compression {self.compression}, privacy {self.privacy}"
        return f"{self.label} with {self.model}, {size}, {how}"


def with_times_of(runs: Sequence[Run], timed: Sequence[Run]) -> list[Run]:
    """Returns the runs with other times: once for each of `timed` that has the same method.

    Args:
        runs: runs whose accuracies count.
        timed: runs whose epoch times count; for an epoch of other length, as of `Run.epoch_s`.

    Raises:
        UserError: there are no times for one of the runs.
    """
    found = []
    for run in runs:
        same = [other for other in timed if _Method.of(other) == _Method.of(run)]
        if not same:
            raise UserError(f"--times: there is no run of {_Method.of(run)}")
        found += [_moved(run, other) for other in same]
    return found


def _moved(run: Run, other: Run) -> Run:
    place = {column: other.text(column) for column in PLACE}
    rows = [row | place | {"epoch_time_s": str(other.epoch_s(int(row["iterations"])))} for row in run.rows]
    return replace(run, rows=tuple(rows))
