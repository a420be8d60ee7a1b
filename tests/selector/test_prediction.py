"""What the selector expects of halves with nothing to train."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipar_rpc.compression.coding import Coding
from pipar_rpc.compression.models import ExactModel, Int8Model
from pipar_rpc.models import build_meta, summarise
from pipar_rpc.selector.facts import Crossing, DeviceFacts, ServerFacts, UnitSizes, move_seconds, needed_bytes
from pipar_rpc.selector.prediction import Predictor
from pipar_rpc.selector.sizes import crossings, unit_sizes
from pipar_rpc.testbed.unit_times import UnitTimes
from tests.support.coding import PART
from tests.support.configuration import plan
from tests.support.frozen import spec_of


def test_what_is_frozen_keeps_nothing_for_a_backward_pass():
    sizes = unit_sizes(spec_of("frozen_first"), ExactModel())
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


def test_codecs_count_their_bytes_and_times():
    """By hand: the times of codecs are part of the pass before or after; at P = Q there are none."""
    unit = UnitTimes("unit", {10: 1.0}, {10: 2.0}, 0.0, encode={10: 0.5}, decode={10: 0.25})
    there = [UnitTimes("unit", {}, {}, 0.0, encode={10: 0.125}, decode={10: 0.0625})] * 2
    up, down = np.full((2, 11), 125_000.0 - 80), np.full((2, 11), 250_000.0)
    sizes = [UnitSizes(10**9, 1000, 0, sent_bytes=250_000), UnitSizes(10**9, 300, 0, sent_bytes=0)]
    crossing = Crossing(up, down, there)
    device = DeviceFacts([unit] * 2, 1.0, 2.0, 0.0, 0.0, 10, 1, 2, crossing=crossing)
    server = ServerFacts([UnitTimes("unit", {10: 0.25}, {10: 0.75}, 0.0)] * 2, {10: 1.0})
    predictor = Predictor(device, server, sizes, 2)  # two halves: the server takes twice as long
    cut, alone = predictor.candidate(1, 1), predictor.candidate(2, 1)
    assert cut.stages.device_forward == pytest.approx(1 + 0.5)
    assert cut.stages.uplink == pytest.approx(1.0)
    assert cut.stages.server_forward == pytest.approx(2 * (0.25 + 0.0625))
    assert cut.stages.server_backward == pytest.approx(2 * (0.75 + 0.125))
    assert cut.stages.downlink == pytest.approx(1.0)
    assert cut.stages.device_backward == pytest.approx(2 + 0.25)
    assert cut.moving_s == pytest.approx((2 + 1) / 2)  # the model up and down, every second iteration
    assert alone.iteration_s == pytest.approx(2 * (1 + 2))


def test_sizes_are_those_of_the_payloads():
    spec = spec_of("frozen_first")
    jobs = plan("model=vgg5", "compression=topk", "num_devices=2").devices
    units = summarise(build_meta(jobs[0].model), jobs[0].model)
    first, second = crossings(jobs, units, 1, torch.device("cpu"))
    assert first is second  # measured once
    coding, shape = Coding(jobs[0].coding), (7, *units[0].output_shape)
    sent = coding.encode_activation(PART, torch.rand(shape, requires_grad=True))
    assert first.uplink_bytes[0, 7] == sent.payload.numel()
    assert first.downlink_bytes[0, 7] == sent.gradient_bytes
    assert set(first.server[0].decode) == set(first.server[0].encode) == {1, 2, 5, 10, 20, 50, 100}
    exact, int8 = (unit_sizes(spec, codec) for codec in (ExactModel(), Int8Model()))
    assert [unit.model_bytes for unit in exact] == [unit.state_bytes for unit in exact]
    assert sum(unit.model_bytes for unit in int8) < 0.4 * sum(unit.state_bytes for unit in int8)
