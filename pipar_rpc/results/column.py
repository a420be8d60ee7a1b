"""What is declared of a column of results.csv; the columns themselves are in `columns.py`."""

from dataclasses import dataclass
from typing import Any, Literal

Row = dict[str, Any]  # an epoch's values by the names of columns; None where a figure does not exist


@dataclass(frozen=True)
class Column:
    """One value of an epoch.

    Attributes:
        name: heading in results.csv.
        meaning: definition in a few words, as Markdown.
        unit: unit or range; times and rates are emulated ones.
        tag: name of the curve in TensorBoard, which groups curves by what stands before the slash.
        devices: relation to single devices: sum, mean or maximum over them, or one value for each, which is
            a tuple; empty for a value that is not about devices.
        heading: short heading in the tables of the terminal and of the report.
        summary: whether the terminal's table has the column.
        digits: digits after the point in that table.
        hparam: role in the line that a job has under HPARAMS in TensorBoard: a setting, or a figure, which is
            the mean over the epochs or the last epoch's value.
        figure: whether the value is a number that can be the objective of a sweep.
    """

    name: str
    meaning: str
    unit: str = ""
    tag: str = ""
    devices: Literal["", "sum", "mean", "max", "each"] = ""
    heading: str = ""
    summary: bool = False
    digits: int = 2
    hparam: Literal["", "setting", "mean", "last"] = ""
    figure: bool = True
