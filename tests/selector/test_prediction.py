"""What the selector expects of halves with nothing to train."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipar_rpc.base.stopping import Stop
from pipar_rpc.compression.coding import Coding
from pipar_rpc.compression.models import ExactModel, Int8Model
from pipar_rpc.models import build_meta, summarise
from pipar_rpc.plan.node import Node
from pipar_rpc.privacy.spec import ActivationNoiseSpec, PrivacySpec
from pipar_rpc.selector.device_profiling import DeviceProfiler
from pipar_rpc.selector.facts import Crossing, DeviceFacts, ServerFacts, UnitSizes, move_seconds, needed_bytes
from pipar_rpc.selector.prediction import Predictor, mean_iteration_s
from pipar_rpc.selector.sizes import crossings, unit_sizes
from pipar_rpc.selector.tables import LABEL_BYTES
from pipar_rpc.testbed.unit_times import UnitTimes
from tests.support.coding import PART
from tests.support.configuration import plan
from tests.support.frozen import spec_of

UNIT = UnitTimes("unit", {10: 1.0}, {10: 2.0}, 0.5)


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


def test_mechanisms_of_the_device_count_without_codecs_too():
    unit = UnitTimes("unit", {10: 1.0}, {10: 2.0}, 0.0, encode={10: 0.5}, decode={10: 0.25})
    tables = np.zeros((2, 11)), np.zeros((2, 11))
    device = DeviceFacts([unit] * 2, 1.0, 2.0, 0.0, 0.0, 10, 1, 2, crossing=Crossing(*tables, ()))
    server = ServerFacts([UNIT] * 2, {10: 1.0})
    predictor = Predictor(device, server, [UnitSizes(80, 1000, 0)] * 2, 1)
    stages = predictor.candidate(1, 1).stages
    assert (stages.device_forward, stages.device_backward) == (1.5, 2.25)
    assert (stages.server_forward, stages.server_backward) == (1.0, 2.0)
    assert predictor.candidate(2, 1).iteration_s == pytest.approx(2 * (1 + 2))


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


def test_each_device_has_the_payloads_of_its_own_codecs():
    """Without a codec they are what they were: bytes in proportion to samples, nothing that codecs take."""
    own = ("devices.overrides.1.compression.activations.name=int8", "devices.overrides.2.batch_size=7")
    job = plan("model=vgg5", "num_devices=3", *own)
    units, sizes = job.network.units, unit_sizes(job.devices[0].model, ExactModel())
    coded, smaller, as_it_is = crossings(job.devices, units, 1, torch.device("cpu"))
    count, channels = math.prod(units[0].output_shape), units[0].output_shape[0]
    assert coded.uplink_bytes[0, 10] == 10 * (count + 4 * channels)  # a scale for each channel
    assert coded.downlink_bytes[0, 10] == 10 * 4 * count  # gradients have no codec
    assert set(coded.server[0].decode) == {1, 2, 5, 10, 20, 50, 100}
    assert smaller.uplink_bytes.shape == (len(units), 8)
    for crossing in (smaller, as_it_is):
        assert crossing.server == ()
        size = crossing.uplink_bytes.shape[1] - 1
        device = DeviceFacts([UNIT] * len(units), 8.0, 8.0, 0.0, 0.0, size, 1, 7, crossing=crossing)
        server = ServerFacts([UNIT] * len(units), {10: 1.0})
        plain = Predictor(replace(device, crossing=None), server, sizes, 1)
        assert np.array_equal(Predictor(device, server, sizes, 1).totals(), plain.totals())


def test_a_smaller_last_mini_batch_and_units_without_room_have_payloads_too():
    """Fewer samples, the same tables; units that a device cannot hold are not timed, nor are their codecs."""
    up = np.arange(11.0)[None, :] * [[1000.0], [0.0]] + 100  # for each message, and for each sample
    there = [UnitTimes("unit", {}, {}, 0.0, encode={10: 0.1}, decode={10: 0.1})] * 2
    unplaced = UnitTimes("", {10: 0.0}, {10: 0.0}, 0.0)
    device = DeviceFacts(
        [UNIT, unplaced], 8.0, 8.0, 0.0, 0.0, 10, 1, 7, num_samples=14, crossing=Crossing(up, up, there)
    )
    facts = ServerFacts([UNIT] * 2, {10: 1.0}), [UnitSizes(0, 0, 0)] * 2, 1
    whole = Predictor(device, *facts).candidate(1, 2)
    last = Predictor(replace(device, batch_size=4), *facts).candidate(1, 2)
    assert last.stages.uplink == pytest.approx((2 * (1000 + LABEL_BYTES) + 100) * 1e-6)
    assert mean_iteration_s(device, *facts, whole) == pytest.approx(
        (whole.iteration_s + last.iteration_s) / 2
    )


def test_a_device_times_the_codecs_that_it_will_use():
    node = Node(Path(), "", False, torch.device("cpu"))
    coded, plain = plan(
        *("data=synthetic", "data.image_size=8", "model=vgg5", "num_devices=2", "compression=topk"),
        "devices.overrides.2.compression.activations.name=none",
        "devices.overrides.2.compression.gradients.name=none",
    ).devices
    for job, sizes in ((coded, {3}), (plain, set())):
        first, *_ = DeviceProfiler(node, Stop(), job).unit_times(3, 1, 2).units
        assert set(first.encode) == set(first.decode) == sizes
    noised = replace(plain, privacy=PrivacySpec(activations=ActivationNoiseSpec(1.0, 1.0)))
    assert set(DeviceProfiler(node, Stop(), noised).unit_times(3, 1, 2).units[0].encode) == {3}
