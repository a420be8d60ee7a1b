"""The trace file."""

import json

from pipar_rpc.results.perfetto import TraceFile
from tests.support.recording import RECORDING


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
