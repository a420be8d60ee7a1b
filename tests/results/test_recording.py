"""Recorded spans: aligned clocks, the trace file, the picture of an iteration, overlap."""

import itertools
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipar_rpc.results.gantt import iteration_figure
from pipar_rpc.results.perfetto import TraceFile
from pipar_rpc.results.recording import Recording
from pipar_rpc.timing.timeline import Span, Stage, pack, unpack
from tests.support.overrides import SMALL
from tests.support.results import job_dirs, rows_of

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


def test_spans_survive_packing_and_move_to_another_clock():
    assert unpack(pack(DEVICE), 0.0) == DEVICE
    moved = unpack(pack(DEVICE), 2.5)
    assert [(span.start, span.end) for span in moved] == [(s.start - 2.5, s.end - 2.5) for s in DEVICE]
    assert unpack(pack([]), 1.0) == []


def test_overlap_is_how_many_resources_work_at_a_time():
    busy = 1 + 2 + 1 + 0.5 + 1 + 1 + 1 + 0.5
    assert RECORDING.overlap() == pytest.approx(busy / 7.5)
    assert Recording(1, 0.0, [[]], [[]], []).overlap() == 1


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


def test_the_picture_of_an_iteration_has_every_device_and_begins_at_zero():
    assert [len(spans) for spans in RECORDING.iteration(0)] == [6]  # neither updates nor models
    figure = iteration_figure([*RECORDING.iteration(0), *RECORDING.iteration(0)], "iteration 1", scale=2)
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["device 1", "device 2"]
    bars = [(bar.get_x(), bar.get_width()) for bar in panels[0].patches]
    assert bars[0] == (0, 2)
    assert max(x + width for x, width in bars) == pytest.approx(12)


@pytest.fixture(scope="module")
def recorded(module_processes):
    overrides = [option for option in SMALL if not option.startswith(("epochs", "network"))]
    overrides += ["epochs=3", "network=4g", "pipeline.num_micro_batches=4", "--multirun"]
    overrides += ["strategy=pipar,sl,fl", "timeline.epochs=2,0"]
    done = module_processes.torchrun(3, *overrides)
    assert done.code == 0, done.err
    return job_dirs(module_processes)


def spans_of(path):
    events = json.loads((path / "trace.json").read_text())["traceEvents"]
    return [event for event in events if event["ph"] == "X"]


def test_a_real_run_records_all_ranks_on_one_clock(recorded):
    spans = spans_of(recorded[0])
    assert {event["args"]["epoch"] for event in spans} == {1, 2}
    for device in (1, 2):

        def ends(name, process, lane=None, device=device):
            return {
                tuple(event["args"].values()): (event["ts"], event["ts"] + event["dur"])
                for event in spans
                if event["name"] == name and event["pid"] == process and lane in (None, event["tid"])
            }

        forward, uplink = ends("device forward", device), ends("uplink", device)
        server, downlink = ends("server forward", 0, device), ends("downlink", device)
        backward = ends("device backward", device)
        assert len(forward) == 2 * 2 * 4  # epochs, iterations, micro-batches
        for key in forward:  # each stage begins after the one before it; clocks agree to a millisecond
            stages = [forward[key], uplink[key], server[key], downlink[key], backward[key]]
            for (_, before), (after, _) in itertools.pairwise(stages):
                assert after >= before - 1000
        assert len(ends("upload", device)) == len(ends("download", device)) == 2


def test_a_recording_gives_overlap_and_a_picture(recorded):
    rows = rows_of(recorded[0])
    assert 1 < float(rows[0]["overlap"]) <= 4
    assert rows[2]["overlap"] == ""  # not recorded
    assert (recorded[0] / "iteration.png").stat().st_size > 10_000
    events = EventAccumulator(str(recorded[0] / "tensorboard"))
    events.Reload()
    assert "timeline/iteration" in events.Tags()["images"]


def test_without_a_recording_there_is_no_trace_and_the_same_network(recorded):
    for with_trace, without in ((0, 1), (2, 3), (4, 5)):
        assert not (recorded[without] / "trace.json").exists()
        assert not (recorded[without] / "iteration.png").exists()
        states = [torch.load(recorded[number] / "model.pt") for number in (with_trace, without)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_strategies_show_what_they_do(recorded):
    split_learning = spans_of(recorded[2])
    devices = [[e for e in split_learning if e["pid"] == k and e["args"]["epoch"] == 1] for k in (1, 2)]
    assert max(e["ts"] + e["dur"] for e in devices[0]) <= min(e["ts"] for e in devices[1]) + 1000
    federated = spans_of(recorded[4])
    assert {e["name"] for e in federated if e["pid"] == 0} == {"aggregate"}
