"""The time of an iteration that stands beside the leakage."""

import pytest
import torch

from pipar_rpc.compression.coding import NO_CODECS, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.leakage import iteration_time
from pipar_rpc.leakage.iteration_time import IterationTimes, predicted_seconds, selected_seconds
from pipar_rpc.plan.finished import read_finished
from tests.support.finished import finished_run
from tests.support.overrides import SMALL

SLOW = ("model.norm=group", "network.uplink_mbps=0.01", "network.downlink_mbps=1000")
SELECTION = "device,split_point,num_micro_batches,iteration_s\n1,1,4,2.0\n1,2,8,3.0\n2,1,5,4.0\n2,2,9,5.0\n"


@pytest.fixture
def folder(tmp_path):
    return finished_run(tmp_path / "run", *SMALL, *SLOW)


def test_over_a_slow_uplink_an_iteration_takes_what_the_payload_takes(folder):
    """Batches of 10; P = 1 leaves 32 maps of 4x4, P = 4 leaves 128 numbers; and labels of 8 bytes."""
    run = read_finished(folder / "config.yaml", ())
    exact = predicted_seconds(run, NO_CODECS)
    assert sorted(exact) == [1, 2, 3, 4, 5]
    assert exact[1] == pytest.approx(10 * (4 * 32 * 16 + 8) * 8e-6 / 0.01, rel=0.05)
    assert exact[4] == pytest.approx(10 * (4 * 128 + 8) * 8e-6 / 0.01, rel=0.1)
    coded = predicted_seconds(run, CodingSpec(CodecSpec("int8"), CodecSpec("int8")))
    assert coded[1] == pytest.approx(10 * (32 * 16 + 4 * 32 + 8) * 8e-6 / 0.01, rel=0.05)


def test_what_was_measured_once_stays(folder, tmp_path, monkeypatch):
    run = read_finished(folder / "config.yaml", ())
    monkeypatch.setattr(iteration_time, "predicted_seconds", lambda run, coding: {1: float(torch.rand(()))})
    first, again, other = (
        IterationTimes(folder, tmp_path, run, config).seconds(NO_CODECS, "none")
        for config in ("one", "one", "other")
    )
    assert first == again
    assert first != other


def test_the_selectors_predictions_count_for_the_runs_own_codecs(folder, tmp_path):
    run = read_finished(folder / "config.yaml", ())
    assert selected_seconds(folder) == {}
    (folder / "selection.csv").write_text(SELECTION)
    times = IterationTimes(folder, tmp_path, run, "")
    assert times.seconds(NO_CODECS, "none") == {1: 3.0, 2: 4.0}
    assert times.origin == iteration_time.BY_SELECTOR
    assert not (tmp_path / "leakage_times.json").exists()
