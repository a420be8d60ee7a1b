"""Rates that are known, and rates that are measured."""

import math

import pytest

from pipar_rpc.testbed.link import LinkSpec, RateTrace
from pipar_rpc.testbed.link_rates import LinkRates, link_rates

FOUND = LinkRates(500.0, 600.0, 0.001, 0.002)


@pytest.mark.parametrize(
    ("up", "down", "carried", "expected"),
    [
        ((8, 0.1), (16, 0.2), (3, 4), (3, 4, 0.1, 0.2)),
        ((8, 0.1), (None, 0.2), (3, 1), (3, 600, 0.1, 0.202)),
        ((None, 0.1), (16, 0.0), (1, 16), (500, 16, 0.101, 0.0)),
        ((None, 0.0), (None, 0.0), (1, 1), FOUND),
    ],
)
def test_emulated_links_are_known_and_real_ones_measured(up, down, carried, expected):
    specs = [LinkSpec(RateTrace.constant(rate), latency) for rate, latency in (up, down)]
    assert link_rates(*specs, carried, FOUND) == pytest.approx(expected)


def test_a_trace_counts_by_its_rate_at_the_time_or_when_the_link_is_up_again():
    trace = RateTrace((0.0, 5.0, 8.0), (0.0, 7.0, 3.0))
    assert [trace.after(time_s) for time_s in (0.0, 4.0, 5.0, 7.9, 8.0, 100.0)] == [7, 7, 7, 7, 3, 3]
    looping = RateTrace((0.0, 5.0), (2.0, 0.0), period=10.0)
    assert [looping.after(time_s) for time_s in (0.0, 6.0, 12.0)] == [2, 2, 2]
    assert RateTrace.constant(None).after(3.0) == math.inf
