"""Emulated links: FIFO, rates that change, latency and jitter, what they carried; traces in files."""

import itertools
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.base.random_streams import generator
from pipar_rpc.testbed.link import Link, LinkSpec, RateTrace
from tests.support.clock import Clock


def make_link(rate, clock, **options):
    return Link(rate, clock=clock, sleep=clock.sleep, **options)


def test_a_message_takes_bytes_times_eight_over_rate():
    clock = Clock()
    link = make_link(10, clock)
    link.transfer(3_276_800)
    assert clock.now == pytest.approx(100 + 2.62144)
    assert link.num_bytes == 3_276_800


def test_a_link_is_a_fifo_queue_without_gaps():
    clock = Clock()
    link = make_link(8, clock, latency_s=0.5)  # one byte takes a microsecond
    first, second = link.reserve(1_000_000), link.reserve(2_000_000)
    assert (first.start, first.end, first.arrival) == pytest.approx((100, 101, 101.5))
    assert (second.start, second.end, second.arrival) == pytest.approx((101, 103, 103.5))  # latency overlaps
    link.wait(second)
    link.wait(first)  # long arrived: no more sleep
    assert clock.slept == pytest.approx([3.5])
    clock.now = 200
    assert link.reserve(1_000_000).start == 200  # idle in between


def test_late_wake_ups_do_not_add_up():
    clock = Clock()
    clock.oversleep = 0.01
    link = make_link(8, clock)
    slots = [link.reserve(1_000_000) for _ in range(50)]
    for slot in slots:
        link.wait(slot)
    assert clock.now == pytest.approx(150.01)


def test_links_do_not_slow_each_other():
    clock = Clock()
    links = [make_link(8, clock) for _ in range(4)]
    slots = [link.reserve(1_000_000) for _ in range(3) for link in links]
    assert [slot.end for slot in slots] == pytest.approx([101] * 4 + [102] * 4 + [103] * 4)


def test_without_limit_and_without_bytes_nothing_waits():
    clock = Clock()
    unlimited = make_link(None, clock)
    unlimited.transfer(10**12)
    make_link(1, clock).transfer(0)
    assert clock.slept == []
    assert unlimited.num_bytes == 10**12
    assert unlimited.drain_traffic() == []


def test_an_empty_message_waits_for_those_before_it():
    clock = Clock()
    link = make_link(8, clock)
    link.reserve(1_000_000)
    assert link.reserve(0) == pytest.approx((101, 101, 101))


def test_a_huge_message():
    clock = Clock()
    link = make_link(1, clock, bin_s=3600)
    link.transfer(10**12)  # 92 days
    assert clock.now == pytest.approx(100 + 8e6)
    assert sum(link.drain_traffic()) == pytest.approx(10**12, rel=1e-3)


def test_the_rate_changes_in_the_middle_of_a_message():
    clock = Clock()
    link = make_link(RateTrace((0, 2), (40, 4)), clock)
    clock.now = 101
    slot = link.reserve(6_000_000)  # 5 MB in the second that is left at 40 Mbit/s, 1 MB in 2 s at 4
    assert (slot.start, slot.end) == pytest.approx((101, 104))
    assert link.reserve(500_000).end == pytest.approx(105)


def test_a_link_that_is_down_holds_messages():
    clock = Clock()
    link = make_link(RateTrace((0, 1, 5), (8, 0, 8)), clock)
    assert link.reserve(1_500_000).end == pytest.approx(105.5)


def test_the_trace_begins_when_the_clock_is_started():
    clock = Clock()
    link = make_link(RateTrace((0, 2), (8, 80)), clock)
    clock.now = 300
    assert link.reserve(1_000_000).end == pytest.approx(300.1)
    clock.now = 310
    link.start()
    assert link.reserve(1_000_000).end == pytest.approx(311)


def test_a_trace_goes_on_where_it_was():
    clock = Clock()
    link = make_link(RateTrace((0, 7), (8, 80)), clock)
    link.start(elapsed_s=5.5)
    assert link.reserve(1_500_000).end == pytest.approx(101.5)
    assert link.reserve(1_000_000).end == pytest.approx(101.6)
    clock.now = 102  # 7.5 s: of the 6th second and the 7th
    assert link.drain_traffic() == pytest.approx([500_000, 1_000_000])


def test_a_looping_trace():
    clock = Clock()
    link = make_link(RateTrace((0, 1), (8, 16), period=2), clock)  # 3 MB in each period of 2 s
    assert link.reserve(30_000_000).end == pytest.approx(120)
    assert link.reserve(1_500_000).end == pytest.approx(121.25)


rates = st.lists(st.sampled_from([0.0, 0.5, 3.0, 20.0]), min_size=1, max_size=4).filter(any)


@given(rates, st.booleans(), st.floats(0, 50), st.integers(1, 10**7))
def test_a_trace_carries_all_bytes_at_its_rates(mbps, loop, start, num_bytes):
    mbps = mbps if loop or mbps[-1] else [*mbps, 1.0]
    trace = RateTrace(tuple(range(len(mbps))), tuple(mbps), len(mbps) if loop else None)
    pieces = list(trace.carry(num_bytes, start))
    assert sum(piece[2] for piece in pieces) == pytest.approx(num_bytes)
    assert pieces[0][0] == pytest.approx(start)
    for (_, end, _), (begin, _, _) in itertools.pairwise(pieces):
        assert end == pytest.approx(begin)
    for begin, end, carried in pieces:
        second = int((begin + end) / 2) % len(mbps) if loop else min(int((begin + end) / 2), len(mbps) - 1)
        assert carried * 8e-6 == pytest.approx(mbps[second] * (end - begin), abs=1e-6)
    assert pieces[-1][1] - start <= trace.worst_seconds(num_bytes) + 1e-6


@given(rates.filter(lambda mbps: mbps[-1] > 0), st.floats(0, 5), st.integers(1, 10**7), st.floats(0.5, 50))
def test_a_scaled_trace_is_the_same_at_another_speed(mbps, start, num_bytes, factor):
    trace = RateTrace(tuple(range(len(mbps))), tuple(mbps))
    *_, (_, end, _) = trace.carry(num_bytes, start)
    *_, (_, scaled_end, _) = trace.scaled(factor).carry(num_bytes, start / factor)
    assert scaled_end * factor == pytest.approx(end)


def test_jitter_delays_messages_but_keeps_their_order_and_repeats():
    def arrivals(seed):
        clock = Clock()
        link = make_link(8, clock, latency_s=0.1, jitter_s=0.5, rng=generator(seed, "uplink", 1))
        slots = [link.reserve(10_000) for _ in range(100)]
        assert [slot.end for slot in slots] == pytest.approx([100 + 0.01 * n for n in range(1, 101)])
        assert all(0.1 - 1e-9 <= slot.arrival - slot.end <= 0.6 + 1e-9 for slot in slots)
        return [slot.arrival for slot in slots]

    assert arrivals(1) == sorted(arrivals(1))
    assert arrivals(1) != arrivals(2)
    assert max(arrivals(1)) - min(arrivals(1)) > 0.9


def test_what_a_link_carried_by_interval():
    clock = Clock()
    link = make_link(8, clock, bin_s=0.5)
    link.reserve(750_000)
    assert link.drain_traffic() == []  # no interval has ended
    clock.now = 100.6
    assert link.drain_traffic() == pytest.approx([500_000])
    link.reserve(100_000)  # queued behind the first: 100.75 to 100.85
    clock.now = 102
    assert link.drain_traffic() == pytest.approx([350_000, 0, 0])
    assert link.drain_traffic() == []


def test_messages_of_several_threads_share_the_link():
    clock = Clock()
    link = make_link(8, clock)
    threads = [threading.Thread(target=lambda: [link.reserve(1000) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert link.reserve(0).end == pytest.approx(102)
    assert link.num_bytes == 2_000_000


def test_the_longest_time_of_a_message():
    assert LinkSpec(RateTrace.constant(8), 0.5, 0.25).worst_seconds(1_000_000) == pytest.approx(1.75)
    assert LinkSpec(RateTrace.constant(None)).worst_seconds(10**9) == 0


def write(path, text):
    path.write_text(text)
    return path


def test_limited():
    assert RateTrace.constant(5).limited
    assert not RateTrace.constant(None).limited
    assert RateTrace((0, 1), (math.inf, 5)).limited


def test_the_last_message_tells_the_rate():
    clock = Clock()
    link = Link(RateTrace((0.0, 10.0), (8.0, 2.0)), clock=clock, sleep=clock.sleep)
    assert link.recent_mbps() is None
    link.transfer(1_000_000)
    assert link.recent_mbps() == pytest.approx(8)
    clock.now += 10
    link.transfer(1_000_000)
    link.transfer(0)
    assert link.recent_mbps() == pytest.approx(2)
    unlimited = Link()
    unlimited.transfer(1_000_000)
    assert unlimited.recent_mbps() is None
