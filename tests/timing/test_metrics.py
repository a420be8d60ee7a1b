"""Arithmetic without processes: micro-batches, averaging, schedule, sums of time, metrics, seeds."""

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipar_rpc.base.microbatch import split_batch
from pipar_rpc.base.seeds import generator
from pipar_rpc.base.states import num_bytes
from pipar_rpc.timing.metrics import DeviceUsage, epoch_metrics
from pipar_rpc.timing.stage_recurrence import StageTimes, iteration_seconds, schedule
from pipar_rpc.timing.timeline import Busy, Span, Stage, Timeline, sum_by_stage, union_seconds
from pipar_rpc.training.fedavg import weighted_average
from tests.support.simulation import simulate


@given(batch=st.integers(1, 120), n=st.integers(1, 150))
def test_micro_batches_keep_every_sample_and_differ_by_at_most_one(batch, n):
    images, labels = torch.arange(batch * 2).view(batch, 2), torch.arange(batch)
    parts = split_batch(images, labels, n, epoch=2, iteration=3)
    assert torch.equal(torch.cat([part.images for part in parts]), images)
    assert torch.equal(torch.cat([part.labels for part in parts]), labels)
    sizes = [len(part.labels) for part in parts]
    assert len(sizes) == min(n, batch)
    assert max(sizes) - min(sizes) <= 1
    assert [part.part.index for part in parts] == list(range(1, len(parts) + 1))
    assert [part.part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert math.isclose(sum(part.part.weight for part in parts), 1)


def test_weighted_average_by_hand():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(5)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(9)},
        {"w": torch.tensor([5.0, -2.0]), "n": torch.tensor(2)},
    ]
    mean = weighted_average(states, [1, 1, 2])
    assert torch.equal(mean["w"], torch.tensor([3.5, 1.0]))  # (1 + 3 + 2*5)/4, (2 + 6 - 2*2)/4
    assert torch.equal(mean["n"], torch.tensor(9))
    assert mean["w"].dtype == torch.float32
    assert mean["n"].dtype == torch.int64


def test_average_of_equal_states_is_that_state():
    state = {"w": torch.randn(1000, generator=generator(0, "test"))}
    assert torch.equal(weighted_average([state] * 3, [7, 11, 13])["w"], state["w"])


def test_a_device_without_samples_does_not_count():
    states = [{"w": torch.ones(1)}, {"w": torch.full((1,), 7.0)}]
    assert weighted_average(states, [5, 0])["w"].item() == 1


@pytest.mark.parametrize("weights", [[], [1], [0, 0], [2, -1]])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="weight"):
        weighted_average([{"w": torch.ones(1)}] * 2, weights)


def test_states_with_other_keys_are_refused():
    with pytest.raises(ValueError, match="bias"):
        weighted_average([{"w": torch.ones(1)}, {"bias": torch.ones(1)}], [1, 1])


def test_num_bytes():
    assert num_bytes({"a": torch.zeros(3, 2), "b": torch.tensor(1)}) == 24 + 8


times = st.floats(0, 10)
stage_times = st.builds(StageTimes, times, times, times, times, times, times)


def unequal(n: int) -> st.SearchStrategy[StageTimes]:
    """Each micro-batch takes another time."""
    each = st.lists(times, min_size=n, max_size=n).map(np.array)
    return st.builds(StageTimes, each, each, each, each, each, each, times, times, times)


@given(stage_times, st.integers(1, 12))
def test_schedule_equals_brute_force(t, n):
    assert iteration_seconds(t, n) == pytest.approx(simulate(t, n))


@settings(max_examples=2000)
@given(
    st.integers(1, 12).flatmap(lambda n: st.lists(unequal(n), min_size=1, max_size=3).map(lambda t: (n, t)))
)
def test_unequal_micro_batches_latencies_and_many_cases_equal_brute_force(case):
    n, cases = case
    names = [field.name for field in fields(StageTimes)]
    together = {name: np.stack([getattr(t, name) for t in cases]) for name in names}
    latencies = {name: getattr(cases[0], name) for name in names if name.endswith("latency")}
    cases = [replace(t, **latencies) for t in cases]
    found = iteration_seconds(StageTimes(**together | latencies), n)
    assert found.tolist() == pytest.approx([simulate(t, n) for t in cases])


@given(stage_times, st.integers(1, 12))
def test_no_resource_does_two_things_at_once(t, n):
    spans = [span for span in schedule(t, n) if span.end - span.start > 1e-9]  # starts are rounded
    server = {Stage.SERVER_FORWARD, Stage.SERVER_BACKWARD}
    device = {Stage.DEVICE_FORWARD, Stage.DEVICE_BACKWARD}
    for stages in (server, device, {Stage.UPLINK}, {Stage.DOWNLINK}):
        own = sorted((span.start, span.end) for span in spans if span.stage in stages)
        assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(own))


def test_union_counts_overlaps_once():
    spans = [Span(Stage.UPDATE, 0, 0, *times) for times in [(0, 2), (1, 3), (5, 6), (5.2, 5.4), (6, 7)]]
    assert union_seconds(spans) == pytest.approx(5)
    assert union_seconds([]) == 0


def test_timeline_sums():
    timeline = Timeline()
    timeline.add(Span(Stage.UPLINK, 0, 1, 1.0, 1.5))
    timeline.add(Span(Stage.UPLINK, 0, 2, 1.5, 3.0))
    with timeline.measure(Stage.UPDATE, 0):
        pass
    sums = sum_by_stage(timeline.drain())
    assert sums[Stage.UPLINK] == Busy(2.0, 2)
    assert sums[Stage.UPDATE].count == 1
    assert timeline.drain() == []


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


def test_no_bound_over_links_that_are_not_timed():
    metrics = epoch_metrics(10.0, 3.0, [usage(links_timed=False)])
    assert metrics.bound_s is None
    assert metrics.efficiency is None


def test_a_device_that_has_left_is_in_no_mean():
    idle = usage(seconds=0.0, iterations=0, stages={}, on_device={})
    metrics = epoch_metrics(10.0, 3.0, [usage(), idle])
    assert metrics.iteration_time_s == pytest.approx(4)
    assert metrics.device_idle_s == pytest.approx(6.5)


def test_random_streams_are_repeatable_and_independent():
    def draw(*stream):
        return torch.rand(4, generator=generator(7, *stream)).tolist()

    assert draw("shuffle", 1, 2) == draw("shuffle", 1, 2)
    different = [draw("shuffle", 1, 2), draw("shuffle", 2, 1), draw("augment", 1, 2), draw("shuffle", 1)]
    assert len({tuple(values) for values in different}) == 4
