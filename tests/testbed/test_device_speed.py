"""Emulated device speed: stretched computing, calibration, replayed times."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.base.errors import UserError
from pipar_rpc.compression.coding import CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.models import ModelSpec, Norm, build_meta, summarise
from pipar_rpc.privacy.spec import DpSgdSpec, PrivacySpec
from pipar_rpc.testbed import device_speed
from pipar_rpc.testbed.device_speed import MachineSpeed, SpeedSpec
from pipar_rpc.testbed.unit_times import NativePace, Pace, UnitTimes, interpolate, replayed
from pipar_rpc.timing.timeline import Stage
from tests.support.clock import Clock
from tests.support.loops import CPU

FORWARD, BACKWARD, UPDATE = Stage.DEVICE_FORWARD, Stage.DEVICE_BACKWARD, Stage.UPDATE
VGG5 = ModelSpec("vgg5", Norm.group, channels=1, image_size=8, num_classes=4)
UNITS = (
    UnitTimes("one", forward={10: 1.0, 20: 1.8}, backward={10: 2.0, 20: 3.6}, update=0.5),
    UnitTimes("two", forward={10: 0.1, 20: 0.2}, backward={10: 0.2, 20: 0.4}, update=0.25),
)


def make_pace(clock, units=UNITS, factor=1.0):
    return Pace(replayed([unit.scaled(factor) for unit in units]), clock=clock, sleep=clock.sleep)


def test_a_stage_takes_its_recorded_time_whatever_this_machine_takes():
    clock = Clock()
    pace = make_pace(clock)
    for stage, samples, end in ((FORWARD, 10, 1.1), (BACKWARD, 15, 1.1 + 3.1), (UPDATE, 0, 1.1 + 3.1 + 0.75)):
        with pace.stretch(stage, samples):
            clock.now += 0.3
        assert clock.now == pytest.approx(100 + end)
    assert pace.emulated_s == pytest.approx(4.95)
    assert pace.late_s == 0


def test_a_machine_that_is_too_slow_is_noticed():
    clock = Clock()
    pace = make_pace(clock)
    with pace.stretch(FORWARD, 10):
        clock.now += 1.5
    assert clock.now == pytest.approx(101.5)
    assert pace.emulated_s == pytest.approx(1.1)
    assert pace.late_s == pytest.approx(0.4)


def test_sleeping_too_long_does_not_add_up():
    clock = Clock()
    clock.oversleep = 0.1
    pace = make_pace(clock)
    for _ in range(20):
        with pace.stretch(FORWARD, 10):
            clock.now += 0.1
    assert clock.now == pytest.approx(122.1)
    assert pace.late_s == 0


def test_an_error_in_the_computation_is_not_hidden_behind_sleep():
    clock = Clock()
    with pytest.raises(ValueError, match="broken"), make_pace(clock).stretch(FORWARD, 1):
        raise ValueError("broken")
    assert clock.slept == []


def test_a_factor_multiplies_all_times():
    assert replayed([unit.scaled(0.1) for unit in UNITS])(FORWARD, 20) == pytest.approx(0.2)
    assert replayed([unit.scaled(3) for unit in UNITS])(UPDATE, 0) == pytest.approx(2.25)
    assert replayed(UNITS)(Stage.AGGREGATE, 0) == 0  # not a device's


def test_between_and_beyond_recorded_batch_sizes():
    times = {10: 1.0, 20: 1.8, 50: 6.0}
    assert [interpolate(times, n) for n in (10, 15, 20, 35)] == pytest.approx([1.0, 1.4, 1.8, 3.9])
    assert interpolate(times, 5) == pytest.approx(0.5)  # in proportion
    assert interpolate(times, 60) == pytest.approx(7.2)
    assert interpolate({5: 0.4, 10: 0.38}, 150) == pytest.approx(5.7)  # noise is not multiplied
    assert interpolate({100: 2.0}, 25) == pytest.approx(0.5)


recorded = st.floats(1e-9, 10) | st.just(0.0)


@given(st.dictionaries(st.integers(1, 200), recorded, min_size=1), st.integers(1, 400))
def test_interpolation_meets_the_recorded_times_and_invents_no_others(times, samples):
    rates = [seconds / size for size, seconds in times.items()]
    if not min(times) < samples < max(times):
        assert min(rates) * samples * 0.999 <= interpolate(times, samples) <= max(rates) * samples * 1.001
    else:
        assert min(times.values()) <= interpolate(times, samples) * 1.001
        assert interpolate(times, samples) <= max(times.values()) * 1.001
    for size, seconds in times.items():
        assert interpolate(times, size) == seconds


def spec(**options) -> SpeedSpec:
    return SpeedSpec(**{"model": VGG5, "num_units": 2, "batch_size": 20, **options})


MACHINE = MachineSpeed(reference_s=0.05, units=UNITS)


def test_an_emulated_speed_is_a_slowdown_a_calibration_or_a_profile():
    assert isinstance(spec().pace(), NativePace)
    assert not spec().calibrated

    slow = spec(slowdown=5)
    assert slow.calibrated
    assert isinstance(slow.pace(), NativePace)  # until the machine is known
    assert slow.pace(MACHINE).seconds(FORWARD, 10) == pytest.approx(5.5)

    pi = spec(slowdown=2, calibrate_s=2.5)
    assert pi.factor(MACHINE) == pytest.approx(100)
    assert pi.pace(MACHINE).seconds(FORWARD, 10) == pytest.approx(110)

    recorded = spec(slowdown=2, calibrate_s=2.5, profile=UNITS)
    assert not recorded.calibrated
    assert recorded.pace().seconds(BACKWARD, 20) == pytest.approx(4.0)


def test_a_device_takes_the_time_of_the_units_that_it_holds():
    assert spec(slowdown=5, num_units=1).pace(MACHINE).seconds(FORWARD, 10) == pytest.approx(5.0)
    assert spec(profile=UNITS, num_units=1).pace().seconds(FORWARD, 10) == pytest.approx(1.0)


def test_a_time_scale_divides_emulated_times():
    assert spec(slowdown=20, time_scale=10).pace(MACHINE).seconds(FORWARD, 10) == pytest.approx(2.2)
    assert spec(profile=UNITS, time_scale=10).pace().seconds(UPDATE, 0) == pytest.approx(0.075)


def test_deadlines_allow_for_slow_devices():
    resnet = ModelSpec("resnet18", Norm.batch, 3, 32, 10)
    flops = sum(unit.flops for unit in summarise(build_meta(resnet), resnet))
    assert spec().worst_seconds(flops) == 0
    assert spec(profile=UNITS).worst_seconds(flops) >= 1.8 + 3.6 + 0.2 + 0.4 + 0.75
    # measured: 0.26 s for 100 images where VGG5's first unit takes 0.042 s
    assert spec(calibrate_s=2.2, batch_size=100).worst_seconds(flops) > 0.26 * 2.2 / 0.042
    assert spec(slowdown=50, batch_size=100).worst_seconds(flops) > 0.26 * 50


def test_measuring_needs_one_thread():
    torch.set_num_threads(2)
    try:
        with pytest.raises(UserError, match=r"node\.threads=2: must be 1"):
            device_speed.measure(spec(slowdown=5, batch_size=3), CPU)
    finally:
        torch.set_num_threads(1)


def test_a_machine_is_measured_once_and_with_the_whole_network(monkeypatch):
    """So that a device is the same one wherever the network is cut."""
    monkeypatch.setattr(device_speed, "RUNS", 1)
    torch.manual_seed(3)
    host, machine = device_speed.calibrate(spec(num_units=1), {}, CPU)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))  # torch's random numbers are left alone
    assert host == device_speed.host_name()
    assert machine.reference_s > 0
    assert [unit.name for unit in machine.units] == list(build_meta(VGG5)._modules)
    assert set(machine.units[0].forward) == {1, 2, 5, 10, 20}

    assert device_speed.measure(spec(num_units=4), CPU) == machine
    other = MachineSpeed(1.0, UNITS)
    assert device_speed.calibrate(spec(num_units=1), {host: other}, CPU) == (
        host,
        other,
    )  # as another device found


def test_a_recorded_device_takes_its_time_for_codecs_too():
    """A profile has no times of codecs: they are stretched as much as its computing is."""
    recorded = UnitTimes("one", {10: 3.0}, {10: 5.0}, 0.0)
    here = UnitTimes("one", {10: 0.25}, {10: 0.75}, 0.0, encode={10: 0.02}, decode={10: 0.01})
    machine = MachineSpeed(0.1, (here,))
    int8 = CodingSpec(CodecSpec("int8"), CodecSpec("int8"))
    spec = SpeedSpec(VGG5, 1, 10, profile=(recorded,), time_scale=2.0)
    assert not spec.calibrated
    coded = replace(spec, coding=int8)
    assert coded.calibrated
    (unit,) = coded.unit_times(machine)
    assert (unit.forward, unit.backward) == ({10: 1.5}, {10: 2.5})
    assert unit.encode == {10: pytest.approx(0.02 * 8 / 2)}
    assert unit.decode == {10: pytest.approx(0.01 * 8 / 2)}
    seconds = replayed([unit])
    assert seconds(Stage.DEVICE_ENCODE, 5) == pytest.approx(0.04)  # in proportion
    assert replayed([recorded])(Stage.DEVICE_DECODE, 5) == 0


def test_a_device_with_the_last_units_takes_their_time_too():
    """What it codes before them is what the server codes at another cut."""
    times = [{10: float(2**index)} for index in range(12)]
    units = [
        UnitTimes(str(q), times[q], times[q + 4], 2.0**-q, *(times[q + 8 :] + times[:8])[:4])
        for q in range(4)
    ]
    made = spec(profile=tuple(units), num_units=1, tail_units=2)
    seconds = made.pace().seconds
    assert seconds(FORWARD, 10) == 1
    assert seconds(Stage.DEVICE_TAIL, 10) == (4 + 64) + (8 + 128)
    assert seconds(UPDATE, 0) == 1 + 1 / 4 + 1 / 8
    assert seconds(Stage.OUTPUT_DECODE, 10) == units[1].far_decode[10] > 0
    assert seconds(Stage.RETURN_ENCODE, 10) == units[1].far_encode[10] > 0
    assert made.worst_seconds(0) > replace(made, tail_units=0).worst_seconds(0)


def test_a_recorded_device_takes_its_time_for_dpsgd_too():
    """A profile was recorded without it: what it adds here is stretched as much as computing is."""
    recorded = UnitTimes("one", {10: 3.0}, {10: 5.0}, 1.0)
    plain = UnitTimes("one", {5: 0.1, 20: 0.4}, {10: 0.75}, 0.125)
    private = UnitTimes("one", {5: 0.2, 20: 0.5}, {10: 1.75}, 0.375)
    spec = SpeedSpec(VGG5, 1, 10, profile=(recorded,), time_scale=2.0)
    assert not spec.calibrated
    spec = replace(spec, privacy=PrivacySpec(DpSgdSpec(1.0, 1.0, None, 1e-5)))
    assert spec.calibrated
    machine = MachineSpeed(0.1, (private,), (plain,))
    assert spec.factor(machine) == pytest.approx(9 / (0.2 + 0.75 + 0.125))
    (unit,) = spec.unit_times(machine)
    factor = spec.factor(machine) / 2
    assert unit.forward[10] == pytest.approx(1.5 + 0.1 * factor)
    assert unit.backward[10] == pytest.approx(2.5 + 1.0 * factor)
    assert unit.update == pytest.approx(0.5 + 0.25 * factor)
