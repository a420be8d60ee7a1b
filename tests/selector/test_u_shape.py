"""What the selector expects where the labels stay on the devices."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipar_rpc.models import ModelSpec, Norm
from pipar_rpc.selector.choose import choose
from pipar_rpc.selector.facts import Crossing, DeviceFacts, ServerFacts, UnitSizes, fitting, needed_bytes
from pipar_rpc.selector.facts import move_seconds as moving
from pipar_rpc.selector.prediction import Predictor
from pipar_rpc.selector.profiling import _filled, _most_held
from pipar_rpc.testbed.unit_timer import time_units
from pipar_rpc.testbed.unit_times import UnitTimes, interpolate
from pipar_rpc.timing.stage_recurrence import UShapeTimes
from tests.support.configuration import plan
from tests.support.simulation import simulate_u_shape

BATCH, UNITS, TAIL = 6, 5, 2
LAST = UNITS - TAIL
HANDLING = 0.125


def random_facts(seed):
    """Units, links and codecs with nothing in common; the first unit is not trained."""
    rng = np.random.default_rng(seed)

    def times():
        return {size: float(rng.uniform(0.1, 2)) for size in range(1, BATCH + 1)}

    def units():
        return [
            UnitTimes("", times(), times(), float(rng.uniform()), *(times() for _ in range(4)))
            for _ in range(UNITS)
        ]

    there = units()
    up, down = (np.cumsum(rng.uniform(1, 9e4, (UNITS, BATCH + 1)), axis=1) for _ in range(2))
    device = DeviceFacts(
        units(), 1.0, 2.0, 0.5, 0.25, BATCH, 1, 3, crossing=Crossing(up, down, there), tail_units=TAIL
    )
    sizes = [UnitSizes(0, 1000 * q, 10 * q, trained=q > 1) for q in range(1, UNITS + 1)]
    return device, ServerFacts(units(), {BATCH: 1.0}, HANDLING), sizes


def by_hand(device, server, point, number, halves):
    """The stages of an iteration, micro-batch by micro-batch."""
    parts = [len(part) for part in np.array_split(np.arange(BATCH), number)]
    head, middle = device.units[:point], server.units[point:LAST]
    first, second = device.crossing.server[point - 1], device.crossing.server[LAST - 1]
    mine, last = device.units[point - 1], device.units[LAST - 1]
    trained = point > 1

    def each(tell):
        return np.array([tell(size) for size in parts])

    def total(units, *directions):
        return lambda size: sum(interpolate(getattr(u, d), size) for u in units for d in directions)

    def on_server(*pieces):
        return each(lambda size: HANDLING + halves * sum(piece(size) for piece in pieces))

    def of(unit, direction, wanted=True):
        return lambda size: interpolate(getattr(unit, direction), size) * wanted

    payload = device.crossing.uplink_bytes, device.crossing.downlink_bytes
    return UShapeTimes(
        device_forward=each(total(head, "forward")) + each(of(mine, "encode")),
        uplink=each(lambda size: payload[0][point - 1, size] * 8e-6 / device.uplink_mbps),
        server_forward=on_server(total(middle, "forward"), of(first, "decode"), of(second, "far_encode")),
        server_backward=on_server(
            total(middle, "backward"), of(second, "far_decode"), of(first, "encode", trained)
        ),
        downlink=each(lambda size: trained * payload[1][point - 1, size] * 8e-6 / device.downlink_mbps),
        device_backward=(each(total(head, "backward")) + each(of(mine, "decode"))) * trained,
        uplink_latency=device.uplink_latency_s,
        downlink_latency=device.downlink_latency_s,
        update=sum(u.update for u in head) * trained + sum(u.update for u in device.units[LAST:]),
        output_downlink=each(lambda size: payload[0][LAST - 1, size] * 8e-6 / device.downlink_mbps),
        device_tail=each(total(device.units[LAST:], "forward", "backward"))
        + each(of(last, "far_decode"))
        + each(of(last, "far_encode")),
        return_uplink=each(lambda size: payload[1][LAST - 1, size] * 8e-6 / device.uplink_mbps),
    )


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_predictions_are_those_of_a_simulation_of_events(seed, halves):
    device, server, sizes = random_facts(seed)
    predictor = Predictor(device, server, sizes, halves)
    for point in range(1, LAST + 1):
        for number in range(1, BATCH + 1):
            expected = simulate_u_shape(by_hand(device, server, point, number, halves), number)
            found = predictor.candidate(point, number)
            assert found.iteration_s == pytest.approx(expected)
            models = sum(own.state_bytes for own in (*sizes[:point], *sizes[LAST:])) * 8e-6
            assert found.moving_s == pytest.approx(models * (1 + 1 / 2) / 3)
    alone, crossing = (
        Predictor(facts, server, sizes, halves).candidate(UNITS, 1)
        for facts in (device, replace(device, tail_units=0))
    )
    assert (alone.iteration_s, alone.moving_s) == (crossing.iteration_s, crossing.moving_s)
    assert (alone.stages.device_tail, alone.stages.return_uplink) == (0, 0)


def test_what_the_device_would_hold_twice_is_no_choice():
    """P = Q is one, and what is chosen is the best of all that are."""
    device, server, sizes = random_facts(0)
    assert fitting(sizes, BATCH, math.inf, TAIL) == [True, True, True, False, True]
    (ranking,) = choose([device], server, sizes, count=100)
    assert {own.split_point for own in ranking} == {1, 2, 3, 5}
    predictor = Predictor(device, server, sizes, 1)
    points = [(point, number) for point in range(1, LAST + 1) for number in range(1, BATCH + 1)]
    best = min(predictor.candidate(*cut).total_s for cut in [*points, (UNITS, 1)])
    assert ranking[0].total_s == pytest.approx(best)


def test_the_last_units_need_memory_and_never_move():
    sizes = [UnitSizes(0, 1000 * q, 10 * q) for q in range(1, UNITS + 1)]
    weights, kept = 3 * 1000, BATCH * 10  # weights, gradients, momentum; activations
    tail = (4 + 5) * (weights + kept)
    assert needed_bytes(sizes, BATCH, TAIL)[:3] == [q * (weights + kept) + tail for q in (1, 3, 6)]
    assert needed_bytes(sizes, BATCH, TAIL)[-1] == 15 * (weights + kept)
    device = DeviceFacts([], 8.0, 4.0, 0, 0, BATCH, 1, 1, tail_units=TAIL)
    assert moving(sizes, device, 1, UNITS) == pytest.approx(2 * 5000 * 8e-6 / 4)
    assert moving(sizes, device, UNITS, 2) == pytest.approx(3000 * 8e-6 / 8)


def test_a_device_that_cannot_hold_all_times_what_it_would_hold():
    spec = ModelSpec("vgg5", Norm.group, 3, 8, 4)
    units = time_units(spec, [2, 4], 1, torch.device("cpu"), num_units=2, tail_units=2).units
    assert [unit.name for unit in units] == ["conv1", "conv2", "fc1", "fc2"]
    assert all(min(unit.backward.values()) > 0 and set(unit.forward) == {2, 4} for unit in units)


def test_units_that_were_not_timed_are_between_the_others():
    job = plan("model=vgg5", "pipeline.labels=device", "pipeline.tail_units=2", "num_devices=1").devices[0]
    named = [UnitTimes(name, {1: 1.0}, {1: 1.0}, 0.0) for name in "abcde"]
    assert [unit.name for unit in _filled([*named[:1], *named[3:]], job)] == ["a", "", "", "d", "e"]
    assert _filled(named, job) == named
    sizes = [UnitSizes(0, 1000, 0)] * 5
    assert [_most_held(sizes, job, room) for room in (1e9, 13_000, 9_000, 1)] == [5, 2, 1, 1]
