"""Everything that a job writes and shows, in one hand."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipar_rpc.checkpoint import Checkpoint
from pipar_rpc.sinks import CsvSink, PngSink, Row, Sink, TensorBoardSink

log = logging.getLogger(__name__)


class Outputs:
    """All sinks of a job.

    Args:
        output_dir: of the job.
        checkpoint: from which the job goes on; None if it begins.
        in_place: whether what came before it was trained in this folder.
    """

    def __init__(self, output_dir: Path, checkpoint: Checkpoint | None, in_place: bool) -> None:
        rows: Sequence[Row] = checkpoint.rows if checkpoint else ()
        ends = _ends(checkpoint) if checkpoint and in_place else None
        self._sinks: list[Sink] = [
            CsvSink(output_dir / "results.csv", rows),
            TensorBoardSink(output_dir / "tensorboard", rows, ends),
            PngSink(output_dir),
        ]

    def add(self, row: Mapping[str, Any]) -> None:
        """Hands on the row of one epoch."""
        for sink in self._sinks:
            sink.add(row)

    def curve(self, tag: str, values: Sequence[float], start: int) -> None:
        """Hands on a part of a curve."""
        for sink in self._sinks:
            sink.curve(tag, values, start)

    def picture(self, name: str, figure: Any) -> None:
        """Hands on a figure."""
        for sink in self._sinks:
            sink.picture(name, figure)

    def text(self, name: str, text: str, step: int = 0) -> None:
        """Hands on lines of text."""
        for sink in self._sinks:
            sink.text(name, text, step)

    def event(self, line: str, step: int) -> None:
        """Something that happened to the job in round `step`: in the log, too."""
        log.warning(line)
        self.text("devices/events", line, step)

    def selected_again(self, lines: str, step: int) -> None:
        """The selector has changed P and N after round `step`: in the log, too."""
        for line in lines.splitlines():
            log.info(line)
        self.text("selector/changes", lines, step)

    def close(self) -> None:
        """Closes all."""
        for sink in self._sinks:
            sink.close()


def _ends(checkpoint: Checkpoint) -> dict[str, int]:
    """The first step of each kind that is written, maybe once more, after a checkpoint."""
    return {
        "epoch": checkpoint.rows[-1]["epoch"]
        if checkpoint.rows
        else 0,  # rows are shown after it was written
        "iteration": checkpoint.num_iterations + 1,
        "second": int(checkpoint.elapsed_s),
        "round": checkpoint.round + 1,
    }
