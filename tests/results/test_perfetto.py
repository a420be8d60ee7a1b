"""The trace file."""

import json

from pipar_rpc.results.perfetto import TraceFile
from pipar_rpc.results.recording import Recording
from pipar_rpc.timing.timeline import Span, Stage

DEVICE = [
    Span(Stage.DEVICE_FORWARD, 0, 1, 10.0, 11.0),
    Span(Stage.UPLINK, 0, 1, 11.0, 13.0),
    Span(Stage.DEVICE_BACKWARD, 0, 1, 15.0, 16.0),
    Span(Stage.UPDATE, 0, 0, 16.0, 16.5),
    Span(Stage.UPLOAD, 0, 0, 16.5, 17.5),
]
SERVER = [
    Span(Stage.SERVER_FORWARD, 0, 1, 12.5, 13.5),
    Span(Stage.SERVER_BACKWARD, 0, 1, 13.5, 14.5),
    Span(Stage.DOWNLINK, 0, 1, 14.5, 15.0),
]
RECORDING = Recording(1, 10.0, [DEVICE], [SERVER], [Span(Stage.AGGREGATE, 0, 0, 17.5, 18.0)])


def test_the_trace_file_has_a_lane_for_each_resource(tmp_path):
    path = tmp_path / "trace.json"
    trace = TraceFile(path, time_scale=2)
    trace.add(RECORDING)
    trace.close()
    events = json.loads(path.read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == 9
    placed = {event["name"]: names[event["pid"], event["tid"]] for event in spans}
    assert placed == {
        "device forward": "compute",
        "device backward": "compute",
        "update": "compute",
        "uplink": "uplink",
        "upload": "uplink",
        "downlink": "downlink",
        "server forward": "server half of device 1",
        "server backward": "server half of device 1",
        "aggregate": "aggregation",
    }
    first = spans[0]
    assert (first["ts"], first["dur"]) == (0, 2e6)  # emulated microseconds
    assert first["args"] == {"epoch": 1, "iteration": 1, "micro_batch": 1}
    assert {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"} == {
        0: "server",
        1: "device 1",
    }


def test_a_trace_file_without_epochs_is_valid(tmp_path):
    TraceFile(tmp_path / "trace.json", 1).close()
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"] == []
