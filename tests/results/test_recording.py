"""Recorded spans: aligned clocks, the trace file, the picture of an iteration, overlap."""

import pytest

from pipar_rpc.results.recording import Recording
from tests.support.recording import RECORDING


def test_overlap_is_how_many_resources_work_at_a_time():
    busy = 1 + 2 + 1 + 0.5 + 1 + 1 + 1 + 0.5
    assert RECORDING.overlap() == pytest.approx(busy / 7.5)
    assert Recording(1, 0.0, [[]], [[]], []).overlap() == 1
