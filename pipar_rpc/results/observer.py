"""What is shown of a job besides its rows: curves, the timeline of the first epochs, warnings."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipar_rpc.coordination.epoch_result import EpochResult
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.rounds import Start
from pipar_rpc.plan.settings import Settings
from pipar_rpc.results import tags
from pipar_rpc.results.columns import Row
from pipar_rpc.results.gantt import iteration_figure
from pipar_rpc.results.outputs import Outputs
from pipar_rpc.results.perfetto import TraceFile
from pipar_rpc.results.recording import Recorder, Recording
from pipar_rpc.results.throughput import Throughput, Watch

TRACE_FILE = "trace.json"


class Observer:
    """Looks at a job epoch by epoch and writes what it sees to the outputs.

    Args:
        membership: devices that take part.
        outputs: files that receive curves and pictures.
        settings: settings that say which epochs are recorded, and which iteration is drawn (or the last one).
        trace: file that receives recorded epochs; None if none is recorded.
        start: iteration at which the training begins, and what came before.
    """

    def __init__(
        self,
        membership: Membership,
        outputs: Outputs,
        settings: Settings,
        trace: TraceFile | None,
        start: Start,
    ) -> None:
        self._outputs, self._settings, self._trace = outputs, settings, trace
        self._recorder = Recorder(membership, settings.recorded_epochs)
        self._throughput = Throughput(membership, outputs, start.elapsed_s, settings.time_scale)
        self._watch = Watch(settings.time_scale)
        self._num_iterations = start.num_iterations

    def begin(self, epoch: int) -> None:
        """Prepares for an epoch (from 1); to be called before it."""
        self._recorder.begin(epoch)

    def observe(self, epoch: int, result: EpochResult) -> dict[str, Any]:
        """Shows the epoch that has just ended; returns the columns that follow from its recording."""
        self._outputs.curve(tags.LOSS, result.losses, start=self._num_iterations + 1)
        start, self._num_iterations = self._num_iterations, self._num_iterations + len(result.losses)
        self._throughput.report()
        recording = self._recorder.finish(epoch, result)
        if recording is None or self._trace is None:
            return {"overlap": None}
        self._trace.add(recording)
        if epoch == 1:
            self._draw(recording, max(start + 1, min(self._settings.drawn_iteration, self._num_iterations)))
        return {"overlap": recording.overlap()}

    def warn(self, result: EpochResult, row: Row) -> None:
        """Warns if the testbed's times cannot be true."""
        self._watch.check(result, row)

    def _draw(self, recording: Recording, number: int) -> None:
        figure = iteration_figure(
            recording.iteration(number - 1), f"iteration {number}", self._settings.time_scale
        )
        self._outputs.picture("timeline/iteration", figure)


@contextmanager
def observing(
    membership: Membership, outputs: Outputs, output_dir: Path, settings: Settings, start: Start
) -> Iterator[Observer]:
    """Opens an `Observer`, which writes trace.json if epochs are recorded from `start` on."""
    recorded = start.position.epoch <= settings.recorded_epochs
    trace = TraceFile(output_dir / TRACE_FILE, settings.time_scale) if recorded else None
    try:
        yield Observer(membership, outputs, settings, trace, start)
    finally:
        if trace is not None:
            trace.close()
