"""The figures of an epoch, by hand."""

import dataclasses

import pytest

from pipar_rpc.timing.metrics import DeviceUsage, epoch_metrics
from pipar_rpc.timing.timeline import Busy, Stage


def usage(**changes) -> DeviceUsage:
    on_device = {
        Stage.DEVICE_FORWARD: Busy(2.0, 8),  # 2 iterations of 4 micro-batches
        Stage.UPLINK: Busy(4.0, 8),
        Stage.DEVICE_BACKWARD: Busy(1.0, 8),
        Stage.UPDATE: Busy(0.5, 2),
    }
    on_server = {
        Stage.SERVER_FORWARD: Busy(0.8, 8),
        Stage.SERVER_BACKWARD: Busy(0.8, 8),
        Stage.DOWNLINK: Busy(1.6, 8),
    }
    values = {
        "seconds": 8.0,
        "iterations": 2,
        "stages": on_device | on_server,
        "on_device": on_device,
        "uplink_bytes": 5_000_000,
        "downlink_bytes": 2_500_000,
        "activation_bytes": 4_000_000,
        "gradient_bytes": 2_000_000,
        "saved_bytes": 0,
        "links_timed": True,
    }
    return DeviceUsage(**(values | changes))


def test_epoch_metrics_by_hand():
    metrics = epoch_metrics(10.0, 3.0, [usage(), usage(uplink_bytes=0)])
    assert metrics.server_idle_s == pytest.approx(7)
    assert metrics.device_idle_s == pytest.approx(10 - 3.5)  # links are not compute
    assert metrics.device_uplink_mbps == pytest.approx((4, 0))
    assert metrics.uplink_mbps == pytest.approx(4)
    assert metrics.downlink_mbps == pytest.approx(4)
    assert metrics.uplink_bytes == 5_000_000
    assert metrics.iteration_time_s == pytest.approx(4)
    # per micro-batch: f^c 0.25, u 0.5, f^s 0.1, b^s 0.1, d 0.2, b^c 0.125: the uplink is the bottleneck
    assert metrics.bound_s == pytest.approx(0.25 + 4 * 0.5 + 0.2 + 0.2 + 0.125)
    assert metrics.efficiency == pytest.approx(metrics.bound_s / 4)


def test_of_times_that_pass_faster_the_figures_are_scaled_back():
    """Times and rates of `testbed.time_scale`; ratios and bytes stay."""

    def faster(stages):
        return {stage: Busy(busy.seconds / 4, busy.count) for stage, busy in stages.items()}

    real = usage()
    scaled = usage(seconds=2.0, stages=faster(real.stages), on_device=faster(real.on_device))
    found = dataclasses.asdict(epoch_metrics(2.5, 0.75, [scaled]).scaled(4))
    for name, value in dataclasses.asdict(epoch_metrics(10.0, 3.0, [real])).items():
        assert found[name] == pytest.approx(value), name


def test_no_bound_over_links_that_are_not_timed():
    metrics = epoch_metrics(10.0, 3.0, [usage(links_timed=False)])
    assert metrics.bound_s is None
    assert metrics.efficiency is None


def test_a_device_that_has_left_is_in_no_mean():
    idle = usage(seconds=0.0, iterations=0, stages={}, on_device={})
    metrics = epoch_metrics(10.0, 3.0, [usage(), idle])
    assert metrics.iteration_time_s == pytest.approx(4)
    assert metrics.device_idle_s == pytest.approx(6.5)


def test_codecs_by_hand():
    """Coding counts for bound and idle time, bytes for an iteration's means and the ratio."""
    plain = usage()
    assert epoch_metrics(10.0, 3.0, [plain]).device_coding_s is None
    assert epoch_metrics(10.0, 3.0, [plain]).compression_ratio == 1
    here = {Stage.DEVICE_ENCODE: Busy(0.8, 8), Stage.DEVICE_DECODE: Busy(0.4, 8)}
    there = {Stage.SERVER_DECODE: Busy(0.08, 8), Stage.SERVER_ENCODE: Busy(0.16, 8)}
    coded = usage(
        stages=plain.stages | here | there, on_device=plain.on_device | here, saved_bytes=22_500_000
    )
    metrics = epoch_metrics(10.0, 3.0, [coded])
    assert metrics.compression_ratio == pytest.approx(4)  # 7.5 MB crossed, 30 MB would have
    assert metrics.iteration_uplink_bytes == pytest.approx(2_000_000)
    assert metrics.iteration_downlink_bytes == pytest.approx(1_000_000)
    assert metrics.device_coding_s == pytest.approx(0.6)
    assert metrics.server_coding_s == pytest.approx(0.12)
    assert metrics.device_idle_s == pytest.approx(10 - 3.5 - 1.2)
    assert metrics.bound_s == pytest.approx(0.35 + 4 * 0.5 + 0.23 + 0.2 + 0.175)
    assert metrics.scaled(10).device_coding_s == pytest.approx(6)
    mixed = epoch_metrics(10.0, 3.0, [coded, plain])
    assert mixed.server_coding_s == pytest.approx(0.06)
