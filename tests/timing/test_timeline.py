"""Spans, and their sums."""

import pytest

from pipar_rpc.base.gpu_clock import StreamClock
from pipar_rpc.timing.timeline import Busy, Span, Stage, Timeline, pack, sum_by_stage, union_seconds, unpack
from tests.support.clock import Clock
from tests.support.streams import FakeStream


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


DEVICE = [
    Span(Stage.DEVICE_FORWARD, 0, 1, 10.0, 11.0),
    Span(Stage.UPLINK, 0, 1, 11.0, 13.0),
    Span(Stage.DEVICE_BACKWARD, 0, 1, 15.0, 16.0),
    Span(Stage.UPDATE, 0, 0, 16.0, 16.5),
    Span(Stage.UPLOAD, 0, 0, 16.5, 17.5),
]


def test_spans_survive_packing_and_move_to_another_clock():
    assert unpack(pack(DEVICE), 0.0) == DEVICE
    moved = unpack(pack(DEVICE), 2.5)
    assert [(span.start, span.end) for span in moved] == [(s.start - 2.5, s.end - 2.5) for s in DEVICE]
    assert unpack(pack([]), 1.0) == []


def test_spans_of_a_gpu_are_known_when_they_are_handed_over():
    """Measuring waits for nothing."""
    clock = Clock()
    stream, timeline = FakeStream(clock), Timeline()
    stream._clock = StreamClock(stream._recorded, clock)
    for iteration in range(2):
        with timeline.measure(Stage.SERVER_FORWARD, iteration, 1, stream.now):
            clock.now += 0.25
    timeline.add(Span(Stage.UPLINK, 0, 1, 1.0, 1.5))
    assert stream.reached < stream.events
    assert timeline.drain() == [
        Span(Stage.SERVER_FORWARD, 0, 1, 100.0, 100.25),
        Span(Stage.SERVER_FORWARD, 1, 1, 100.25, 100.5),
        Span(Stage.UPLINK, 0, 1, 1.0, 1.5),
    ]
