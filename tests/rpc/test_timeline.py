"""Recorded spans of a real run: all ranks on one clock."""

import itertools
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.overrides import SMALL
from tests.support.results import job_dirs, rows_of


@pytest.fixture(scope="module")
def recorded(module_processes):
    overrides = [option for option in SMALL if not option.startswith(("epochs", "network"))]
    overrides += ["epochs=2", "network=4g", "pipeline.num_micro_batches=4", "--multirun"]
    overrides += ["strategy=pipar,sl,fl", "timeline.epochs=1,0"]
    done = module_processes.training(3, *overrides)
    assert done.code == 0, done.err
    return job_dirs(module_processes)


def spans_of(path):
    events = json.loads((path / "trace.json").read_text())["traceEvents"]
    return [event for event in events if event["ph"] == "X"]


def test_a_real_run_records_all_ranks_on_one_clock(recorded):
    spans = spans_of(recorded[0])
    assert {event["args"]["epoch"] for event in spans} == {1}
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
        assert len(forward) == 2 * 4  # iterations, micro-batches
        for key in forward:  # each stage begins after the one before it; clocks agree to a millisecond
            stages = [forward[key], uplink[key], server[key], downlink[key], backward[key]]
            for (_, before), (after, _) in itertools.pairwise(stages):
                assert after >= before - 1000
        assert len(ends("upload", device)) == len(ends("download", device)) == 1


def test_a_recording_gives_overlap_and_a_picture(recorded):
    rows = rows_of(recorded[0])
    assert 1 < float(rows[0]["overlap"]) <= 4
    assert rows[1]["overlap"] == ""  # not recorded
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
