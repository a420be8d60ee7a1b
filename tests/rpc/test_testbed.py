"""The emulated testbed as users run it: torchrun, a trace, a recorded device, a time scale."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipar_rpc.models import ModelSpec, Norm, build_meta
from pipar_rpc.testbed.device_profile import DeviceProfile
from pipar_rpc.testbed.unit_times import UnitTimes
from tests.support.overrides import SMALL
from tests.support.results import job_dirs, rows_of

BATCH = 8
# The activation of a batch, with its labels: 32 maps of 4x4 pixels for each sample.
ACTIVATION_MBIT = BATCH * (32 * 4 * 4 * 4 + 8) * 8e-6


def write_profile(path, forward, backward):
    """A device whose first unit takes these seconds for a batch, and the others none."""
    spec = ModelSpec("vgg5", Norm.batch, 3, 8, 10)
    seconds = [(forward, backward)] + [(0.0, 0.0)] * 4
    names = list(build_meta(spec)._modules)
    units = [
        UnitTimes(name, {BATCH: own[0]}, {BATCH: own[1]}, 0.0)
        for name, own in zip(names, seconds, strict=True)
    ]
    DeviceProfile(spec.name, spec.norm, 3, 8, 10, units).write(path)


@pytest.fixture(scope="module")
def scaled(module_processes):
    """N = 1 and 8, in real time and twice as fast; 0.4 s forward, 0.8 s up, 0.4 s down, 0.3 s back."""
    write_profile(module_processes.directory / "slow_board.yaml", forward=0.4, backward=0.3)
    overrides = [*SMALL[:-1], "network.name=slow", f"batch_size={BATCH}", "data.train_size_per_device=16"]
    overrides += [
        f"network.uplink_mbps={ACTIVATION_MBIT / 0.8}",
        f"network.downlink_mbps={ACTIVATION_MBIT / 0.4}",
    ]
    overrides += ["testbed.profile=slow_board.yaml", "aggregation.every=0", "--multirun"]
    overrides += ["testbed.time_scale=1,2", "pipeline.num_micro_batches=1,8"]
    done = module_processes.training(3, *overrides)
    assert done.code == 0, done.err
    return done, {number: rows_of(path)[0] for number, path in job_dirs(module_processes).items()}


def test_a_recorded_device_takes_its_recorded_times(scaled):
    """At least: how much longer is this machine's matter."""
    _, rows = scaled
    one, eight = (float(rows[number]["iteration_time_s"]) for number in range(2))
    assert one >= 0.99 * (0.4 + 0.8 + 0.4 + 0.3)  # one micro-batch: the four stages follow each other
    assert one > eight >= 0.99 * (0.4 / 8 + 0.8 + 0.4 / 8 + 0.3 / 8)  # eight: the uplink is the bottleneck
    assert float(rows[0]["device_idle_s"]) >= 0.99 * 2 * (0.8 + 0.4)
    assert rows[0]["testbed"] == "slow_board"


def test_a_time_scale_keeps_times_and_rates_and_is_marked(scaled):
    done, rows = scaled
    assert float(rows[2]["iteration_time_s"]) >= 0.99 * (0.4 + 0.8 + 0.4 + 0.3)
    assert float(rows[3]["iteration_time_s"]) >= 0.99 * (0.4 / 8 + 0.8 + 0.4 / 8 + 0.3 / 8)
    for number in range(4):
        rates = rows[number]["device_downlink_mbps"].split(";")
        assert max(map(float, rates)) <= 1.01 * ACTIVATION_MBIT / 0.4
    assert [rows[number]["time_scale"] for number in range(4)] == ["1", "1", "2", "2"]
    assert done.out.count("(emulated: real time x 2)") == 2
    assert done.out.count("times and rates are emulated: 2 seconds pass in a real one") == 2


@pytest.fixture(scope="module")
def dropped(module_processes, tmp_path_factory):
    """The uplinks drop to a fourth after a second. First device 1 is calibrated, then it is not."""
    group = type(module_processes)(tmp_path_factory.mktemp("dropped"))
    (group.directory / "drop.csv").write_text("time_s,uplink_mbps,downlink_mbps\n0,0.2,4\n1,0.05,4\n")
    overrides = [*SMALL, "network.trace=drop.csv", "network.jitter_ms=5", "pipeline.num_micro_batches=5"]
    overrides += ["devices.overrides.1.testbed.calibrate_s=0.2,null", "--multirun"]
    done = group.training(3, *overrides)
    assert group.left_over() == []
    assert done.code == 0, done.err
    return done, job_dirs(group)


def test_a_drop_of_the_uplink_shows_in_tensorboard_at_the_right_second(dropped):
    _, jobs = dropped
    events = EventAccumulator(str(jobs[0] / "tensorboard"))
    events.Reload()
    for device in (1, 2):
        curve = events.Scalars(f"network_by_second/uplink_mbps/device{device}")
        assert [scalar.step for scalar in curve] == list(range(len(curve)))
        values = [scalar.value for scalar in curve]
        assert 0.05 < values[0] <= 0.2001
        assert 0 < max(values[1:]) <= 0.05001
        assert f"network_by_second/downlink_mbps/device{device}" in events.Tags()["scalars"]
    (row,) = rows_of(jobs[0])
    assert row["network"] == "drop"


def test_the_calibration_is_logged(dropped):
    done, _ = dropped
    assert done.out.count("calibration on ") == 1
    assert "0.20 s on the emulated device1" in done.out


def test_emulated_speed_does_not_change_what_is_learned(dropped):
    _, jobs = dropped
    calibrated, native = (torch.load(jobs[number] / "model.pt") for number in (0, 1))
    for key in native:
        assert torch.equal(calibrated[key], native[key]), key
