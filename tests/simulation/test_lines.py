"""Lines whose rates change, against the link's own account of them."""

import numpy as np
import pytest

from pipar_rpc.simulation.lines import Line, transfer
from pipar_rpc.testbed.link import Link, RateTrace

TRACES = [
    RateTrace.constant(8.0),
    RateTrace.constant(None),
    RateTrace((0.0, 2.0, 3.5), (4.0, 0.0, 16.0)),
    RateTrace((0.0, 1.0, 4.0), (0.0, 2.0, 8.0), 5.0),
]


@pytest.mark.parametrize("trace", TRACES)
def test_messages_pass_as_on_an_emulated_link(trace):
    """The link of the testbed is asked message by message, at the times at which they are there."""
    rng, now, line = np.random.default_rng(3), [0.0], Line(trace)
    for _ in range(50):
        factor, shift, count = rng.uniform(0.1, 5), rng.uniform(0, 12), rng.integers(1, 7)
        ready, mbit = np.sort(rng.uniform(0, 20, count)), rng.uniform(0, 30, count)
        mbit[rng.random(count) < 0.2] = 0.0
        rates = tuple(rate * factor for rate in trace.mbps)
        now[0] = 0.0
        link = Link(RateTrace(trace.times, rates, trace.period), clock=lambda: now[0])
        link.start(shift)
        expected, last = [], 0.0
        for time, size in zip(ready, mbit, strict=True):
            now[0] = time
            expected.append(link.reserve(size * 125_000).end)
        found = line.ends(ready[None], mbit[None], np.array([factor]), np.array([shift]))
        assert found[0].tolist() == pytest.approx(expected, abs=1e-6)
        for time, size, end in zip(ready, mbit, expected, strict=True):
            last = line.end(max(time, last), size, factor, shift)
            assert last == pytest.approx(end, abs=1e-6)


def test_each_device_has_its_own_line():
    lines, ready = [Line(RateTrace.constant(8.0)), Line(TRACES[2])], np.zeros((3, 2))
    mbit, ones, none = np.full((3, 2), 4.0), np.ones(3), np.zeros(3)
    found = transfer(lines, np.array([1, 0, 1]), ready, mbit, ones, none)
    assert found.tolist() == [[1.0, 2.0], [0.5, 1.0], [1.0, 2.0]]


def test_the_mean_rate():
    assert [Line(trace).mean_mbps for trace in TRACES] == [8.0, np.inf, 16.0, pytest.approx(14 / 5)]
