"""The stage recurrence against brute force."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipar_rpc.timing.stage_recurrence import StageTimes, UShapeTimes, iteration_seconds, schedule
from pipar_rpc.timing.timeline import DOWNLINK_STAGES, UPLINK_STAGES, Stage
from tests.support.simulation import simulate, simulate_u_shape

times = st.floats(0, 10)
stage_times = st.builds(StageTimes, times, times, times, times, times, times)


u_shape_times = st.builds(UShapeTimes, *[times] * 12)


def unequal(n: int, kind: type[StageTimes] = StageTimes, further: int = 0) -> st.SearchStrategy[StageTimes]:
    """Each micro-batch takes another time."""
    each = st.lists(times, min_size=n, max_size=n).map(np.array)
    return st.builds(kind, each, each, each, each, each, each, times, times, times, *[each] * further)


@given(stage_times, st.integers(1, 12))
def test_schedule_equals_brute_force(t, n):
    assert iteration_seconds(t, n) == pytest.approx(simulate(t, n))


@settings(max_examples=500)
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


@settings(max_examples=200)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), unequal(n, UShapeTimes, 3))))
def test_where_micro_batches_cross_twice_it_equals_a_simulation_of_events(case):
    """Which does not know that the stages follow each other: resources take whatever has come."""
    n, t = case
    assert iteration_seconds(t, n) == pytest.approx(simulate_u_shape(t, n))
    names = [field.name for field in fields(t) if isinstance(getattr(t, field.name), np.ndarray)]
    twice = replace(t, **{name: np.stack([getattr(t, name), 2 * getattr(t, name)]) for name in names})
    found = iteration_seconds(twice, n)
    assert found.shape == (2,)
    assert found[0] == pytest.approx(float(iteration_seconds(t, n)))


@given(stage_times | u_shape_times, st.integers(1, 12))
def test_no_resource_does_two_things_at_once(t, n):
    spans = [span for span in schedule(t, n) if span.end - span.start > 1e-9]  # starts are rounded
    server = {Stage.SERVER_FORWARD, Stage.SERVER_BACKWARD}
    device = {Stage.DEVICE_FORWARD, Stage.DEVICE_TAIL, Stage.DEVICE_BACKWARD}
    for stages in (server, device, UPLINK_STAGES, DOWNLINK_STAGES):
        own = sorted((span.start, span.end) for span in spans if span.stage in stages)
        assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(own))
