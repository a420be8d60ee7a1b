"""Spans, and their sums."""

import pytest

from pipar_rpc.timing.timeline import Busy, Span, Stage, Timeline, pack, sum_by_stage, union_seconds, unpack


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
