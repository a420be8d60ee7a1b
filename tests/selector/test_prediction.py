"""What the selector expects of halves with nothing to train."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipar_rpc.selector.facts import DeviceFacts, ServerFacts, UnitSizes, move_seconds, needed_bytes
from pipar_rpc.selector.prediction import Predictor
from pipar_rpc.selector.profiling import unit_sizes
from tests.support.frozen import spec_of


def test_what_is_frozen_keeps_nothing_for_a_backward_pass():
    sizes = unit_sizes(spec_of("frozen_first"))
    assert sizes[0].held_bytes == 0
    assert sizes[1].held_bytes > 0


def test_the_prediction_of_a_frozen_half_has_no_way_back():
    """By hand: forward 1 s, up 2 s, server 3 + 4 s, and the answer's latency."""
    unit = {"forward": {10: 1.0}, "backward": {10: 5.0}, "update": 7.0}
    whole = [SimpleNamespace(name="unit", **unit) for _ in range(3)]
    server = [SimpleNamespace(name="unit", forward={10: 1.5}, backward={10: 2.0}, update=0.0)] * 3
    sizes = [UnitSizes(25_000 - 8, 1000, 0, False), UnitSizes(25_000 - 8, 500, 0), UnitSizes(0, 300, 0)]
    device = DeviceFacts(whole, 1.0, 1.0, 0.25, 0.125, 10, 1, np.inf)
    predictor = Predictor(device, ServerFacts(server, {10: 1.0}), sizes, 1)
    first, second = (predictor.candidate(point, 1) for point in (1, 2))
    assert first.iteration_s == pytest.approx(1 + 2 + 0.25 + 3 + 4 + 0.125)
    assert (first.stages.downlink, first.stages.device_backward, first.stages.update) == (0, 0, 0)
    down = (25_000 - 8) * 10 * 8e-6
    assert second.iteration_s == pytest.approx(2 + 2 + 0.25 + 1.5 + 2 + down + 0.125 + 10 + 14)
    assert predictor.published_counts()[0] == 10  # 1 + ceil(9 / 1): the forward pass alone
    assert needed_bytes(sizes, 10) == [1000, 2500, 3400]
    assert move_seconds(sizes, device, 0, 2) == pytest.approx((1000 + 2 * 500) * 8e-6)
    assert move_seconds(sizes, device, 2, 0) == pytest.approx(500 * 8e-6)
