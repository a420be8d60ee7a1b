"""What TensorBoard shows of a job: curves, pictures, text and the job's line under HPARAMS."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipar_rpc.results.columns import COLUMNS, Row, mean
from pipar_rpc.results.csv_table import cell
from pipar_rpc.results.event_files import rewind


class TensorBoard:
    """Writes a scalar for each column and epoch, and a curve for each device where it has its own value.

    All is in the event file when a call returns, so that a checkpoint never knows more than TensorBoard.

    Args:
        directory: folder of the event files.
        rows: rows of earlier epochs.
        ends: first steps after those of earlier epochs in this folder, see `event_files.rewind`; None if they
            are elsewhere.
    """

    def __init__(self, directory: Path, rows: Sequence[Row], ends: Mapping[str, int] | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        rewind(directory, ends or {})
        self._writer = SummaryWriter(str(directory))
        there = ends["epoch"] if ends else 0
        self._rows: list[Mapping[str, Any]] = [row for row in rows if row["epoch"] < there]
        for row in rows[len(self._rows) :]:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes the figures of one epoch."""
        self._rows.append(row)
        for column in COLUMNS.values():
            value = row.get(column.name) if column.tag else None
            if isinstance(value, Mapping):
                for name, part in value.items():
                    self._scalar(f"{column.tag}/{name}", part, row["epoch"])
            elif isinstance(value, tuple):
                for device, part in enumerate(value, start=1):
                    if part is not None:  # a device that has left has none
                        self._scalar(f"{column.tag}/device{device}", part, row["epoch"])
            elif value is not None:
                self._scalar(column.tag, value, row["epoch"])
        self._writer.flush()

    def curve(self, tag: str, values: Sequence[float | None], start: int) -> None:
        """Writes a part of a curve at the steps `start`, `start` + 1, ...; None leaves a step out."""
        for step, value in enumerate(values, start=start):
            if value is not None:
                self._scalar(tag, value, step)
        self._writer.flush()

    def picture(self, name: str, figure: Any) -> None:
        """Shows a matplotlib figure called "group/name" under IMAGES."""
        self._writer.add_figure(name, figure, close=False)
        self._writer.flush()

    def text(self, name: str, text: str, step: int) -> None:
        """Shows lines called "group/name" as they are under TEXT."""
        self._writer.add_text(name, f"```\n{text}\n```", step)
        self._writer.flush()

    def close(self) -> None:
        """Writes the job's line under HPARAMS and closes the event file."""
        if self._rows:
            settings, figures = self._hparams()
            self._writer.add_hparams(settings, figures, run_name=".")  # no folder of its own
        self._writer.close()

    def _hparams(self) -> tuple[dict[str, Any], dict[str, float]]:
        settings: dict[str, Any] = {}
        figures: dict[str, float] = {}
        last = self._rows[-1]
        for name, column in COLUMNS.items():
            value = last.get(name)
            if column.hparam == "setting":
                settings[name] = value if isinstance(value, int | float | str) else str(cell(value))
            elif column.hparam == "mean":
                figures[f"hparam/{name}"] = mean(self._rows, name) or 0.0
            elif column.hparam == "last" and value is not None:
                figures[f"hparam/{name}"] = value
        return settings, figures

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)
