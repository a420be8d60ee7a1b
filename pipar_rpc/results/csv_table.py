"""The file results.csv."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipar_rpc.base.disk import write_whole
from pipar_rpc.results.columns import COLUMNS, Row


class CsvTable:
    """The table with a line for each epoch; a line is on disk when `add` returns.

    Args:
        path: place of the file.
        rows: rows of earlier epochs.
    """

    def __init__(self, path: Path, rows: Sequence[Row]) -> None:
        earlier = io.StringIO(newline="")
        table = csv.DictWriter(earlier, COLUMNS)
        table.writeheader()
        table.writerows(map(_cells, rows))
        write_whole(path, lambda file: file.write(earlier.getvalue().encode()))
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends one line; a key that is not in `COLUMNS` raises ValueError."""
        self._writer.writerow(_cells(row))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a whole table, six digits each; raises OSError.

    Args:
        path: place of the file.
        columns: headings.
        rows: values in the order of the headings.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([cell(value) for value in row] for row in rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def cell(value: Any) -> Any:
    """Formats a value for the file: six digits; devices or named values joined by `;`; nothing for None."""
    if isinstance(value, Mapping):
        return ";".join(f"{name}={cell(part)}" for name, part in value.items())
    if isinstance(value, tuple):
        return ";".join("" if part is None else str(cell(part)) for part in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell(value) for name, value in row.items()}
