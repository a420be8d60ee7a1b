"""trace.json: spans in the format of Chrome's trace viewer and of ui.perfetto.dev."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipar_rpc.results.recording import Recording
from pipar_rpc.timing.timeline import DOWNLINK_STAGES, NO_ITERATION, UPLINK_STAGES, Span

AGGREGATION = 0  # lanes of the server's process; those of the server halves have their device's number
COMPUTE_LANE, UPLINK_LANE, DOWNLINK_LANE = 1, 2, 3  # lanes of a device's process
LANES = {COMPUTE_LANE: "compute", UPLINK_LANE: "uplink", DOWNLINK_LANE: "downlink"}
LINKS = dict.fromkeys(UPLINK_STAGES, UPLINK_LANE) | dict.fromkeys(DOWNLINK_STAGES, DOWNLINK_LANE)


class TraceFile:
    """Writes one file for all recorded epochs; it is complete when it is closed.

    Args:
        path: place of the file.
        time_scale: number of emulated seconds in a real one; times in the file are emulated.
    """

    def __init__(self, path: Path, time_scale: float) -> None:
        self._file = path.open("w")
        self._file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        self._scale, self._origin, self._separator = time_scale, math.nan, ""

    def add(self, recording: Recording) -> None:
        """Appends the spans of an epoch; time 0 is the start of the first one."""
        if math.isnan(self._origin):
            self._origin = recording.began
            self._write(_names(len(recording.devices)))
        self._write(self._events(recording))

    def close(self) -> None:
        """Completes the file."""
        self._file.write("\n]}\n")
        self._file.close()

    def _write(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            self._file.write(f"{self._separator}{json.dumps(event)}")
            self._separator = ",\n"

    def _events(self, recording: Recording) -> Iterator[dict[str, Any]]:
        epoch = recording.epoch
        for number, spans in enumerate(recording.devices, start=1):
            for span in spans:
                yield self._event(span, epoch, number, LINKS.get(span.stage, COMPUTE_LANE))
        for number, spans in enumerate(recording.servers, start=1):
            for span in spans:
                lane = LINKS.get(span.stage)
                yield self._event(span, epoch, *((0, number) if lane is None else (number, lane)))
        for span in recording.aggregation:
            yield self._event(span, epoch, 0, AGGREGATION)

    def _event(self, span: Span, epoch: int, process: int, lane: int) -> dict[str, Any]:
        place = {} if span.iteration == NO_ITERATION else {"iteration": span.iteration + 1}
        if span.micro_batch:
            place["micro_batch"] = span.micro_batch
        return {
            "name": span.stage.replace("_", " "),
            "ph": "X",
            "ts": round((span.start - self._origin) * self._scale * 1e6, 1),
            "dur": round((span.end - span.start) * self._scale * 1e6, 1),
            "pid": process,
            "tid": lane,
            "args": {"epoch": epoch, **place},
        }


def _names(num_devices: int) -> Iterator[dict[str, Any]]:
    def name(kind: str, value: str, process: int, lane: int = 0) -> dict[str, Any]:
        return {"name": kind, "ph": "M", "pid": process, "tid": lane, "args": {"name": value}}

    yield name("process_name", "server", 0)
    yield name("thread_name", "aggregation", 0, AGGREGATION)
    for number in range(1, num_devices + 1):
        yield name("thread_name", f"server half of device {number}", 0, number)
        yield name("process_name", f"device {number}", number)
        for lane, text in LANES.items():
            yield name("thread_name", text, number, lane)
