"""What is shown of a job beside its rows: curves, the timeline of the first epochs, warnings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipar_rpc.coordination.epoch_result import EpochResult
from pipar_rpc.coordination.membership import Roster
from pipar_rpc.results import tags
from pipar_rpc.results.columns import Row
from pipar_rpc.results.gantt import iteration_figure
from pipar_rpc.results.outputs import Outputs
from pipar_rpc.results.perfetto import TraceFile
from pipar_rpc.results.recording import Recorder, Recording
from pipar_rpc.results.throughput import Throughput, Watch

TRACE_FILE = "trace.json"


class Observer:
    """Looks at a job epoch by epoch and hands what it sees to the outputs.

    Args:
        roster: the devices.
        outputs: receive curves and pictures.
        recorded_epochs: how many epochs are recorded span by span.
        iteration: of the first epoch, from 1, whose picture is drawn; the last one if there are fewer.
        time_scale: emulated seconds in a real one.
        trace: receives recorded epochs; None if none is.
        done: iterations that were trained before.
        elapsed_s: real seconds that this took.
    """

    def __init__(
        self,
        roster: Roster,
        outputs: Outputs,
        recorded_epochs: int,
        iteration: int,
        time_scale: float,
        trace: TraceFile | None,
        done: int,
        elapsed_s: float,
    ) -> None:
        self._outputs, self._iteration, self._scale, self._trace = outputs, iteration, time_scale, trace
        self._recorder = Recorder(roster, recorded_epochs)
        self._throughput = Throughput(roster, outputs, elapsed_s, time_scale)
        self._watch = Watch(time_scale)
        self._num_iterations = done

    def begin(self, epoch: int) -> None:
        """To be called before an epoch (from 1)."""
        self._recorder.begin(epoch)

    def observe(self, epoch: int, result: EpochResult) -> dict[str, Any]:
        """Shows the epoch that has just ended; returns the columns that come of its recording."""
        self._outputs.curve(tags.LOSS, result.losses, start=self._num_iterations + 1)
        start, self._num_iterations = self._num_iterations, self._num_iterations + len(result.losses)
        self._throughput.report()
        recording = self._recorder.finish(epoch, result)
        if recording is None or self._trace is None:
            return {"overlap": None}
        self._trace.add(recording)
        if epoch == 1:
            self._draw(recording, max(start + 1, min(self._iteration, self._num_iterations)))
        return {"overlap": recording.overlap()}

    def warn(self, result: EpochResult, row: Row) -> None:
        """Warns if the testbed's times cannot be true."""
        self._watch.check(result, row)

    def _draw(self, recording: Recording, number: int) -> None:
        figure = iteration_figure(recording.iteration(number - 1), f"iteration {number}", self._scale)
        self._outputs.picture("timeline/iteration", figure)


@contextmanager
def observing(
    roster: Roster,
    outputs: Outputs,
    output_dir: Path,
    recorded_epochs: int,
    iteration: int,
    time_scale: float,
    first_epoch: int,
    done: int,
    elapsed_s: float,
) -> Iterator[Observer]:
    """An `Observer` that writes trace.json if epochs are recorded, from `first_epoch` on."""
    trace = TraceFile(output_dir / TRACE_FILE, time_scale) if first_epoch <= recorded_epochs else None
    try:
        yield Observer(roster, outputs, recorded_epochs, iteration, time_scale, trace, done, elapsed_s)
    finally:
        if trace is not None:
            trace.close()
