"""Everything that a job writes for people: its table, TensorBoard, pictures."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipar_rpc.results import tags
from pipar_rpc.results.columns import Row
from pipar_rpc.results.csv_table import CsvTable
from pipar_rpc.results.figures import MAX_CLASSES, confusion_figure
from pipar_rpc.results.run_files import ROWS
from pipar_rpc.results.tensorboard import TensorBoard
from pipar_rpc.training.evaluation import Evaluation

log = logging.getLogger(__name__)


class Outputs:
    """The files of a job.

    Args:
        output_dir: folder of the job.
        rows: rows of epochs that were trained before.
        ends: first step of each kind that will be written, if those epochs were trained in this folder; see
            `pipar_rpc.results.event_files`.
    """

    def __init__(
        self, output_dir: Path, rows: Sequence[Row] = (), ends: Mapping[str, int] | None = None
    ) -> None:
        self._folder = output_dir
        self._table = CsvTable(output_dir / ROWS, rows)
        self._tensorboard = TensorBoard(output_dir / "tensorboard", rows, ends)

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes the row of one epoch."""
        self._table.add(row)
        self._tensorboard.add(row)

    def curve(self, tag: str, values: Sequence[float | None], start: int) -> None:
        """Writes a part of a curve, with a value for each of the steps `start`, `start` + 1, ..."""
        self._tensorboard.curve(tag, values, start)

    def picture(self, name: str, figure: Any) -> None:
        """Shows a matplotlib figure called "group/name", and writes it to name.png."""
        self._tensorboard.picture(name, figure)
        figure.savefig(self._folder / f"{Path(name).name}.png", dpi=120)

    def confusion(self, evaluation: Evaluation | None, classes: Sequence[str]) -> None:
        """Shows which classes are taken for which, if samples have one each and there are not too many."""
        if evaluation is not None and evaluation.confusion is not None and len(classes) <= MAX_CLASSES:
            self.picture(tags.CONFUSION, confusion_figure(evaluation.confusion.tolist(), classes))

    def text(self, name: str, text: str, step: int = 0) -> None:
        """Shows lines of text called "group/name"."""
        self._tensorboard.text(name, text, step)

    def event(self, line: str, step: int) -> None:
        """Shows, also in the log, what happened to the job in round `step`."""
        log.warning(line)
        self.text(tags.EVENTS, line, step)

    def selected_again(self, lines: str, step: int) -> None:
        """Shows, also in the log, how the selector has changed P and N after round `step`."""
        for line in lines.splitlines():
            log.info(line)
        self.text(tags.CHANGES, lines, step)

    def close(self) -> None:
        """Closes the files."""
        self._table.close()
        self._tensorboard.close()
