"""The selector against brute force: every P and N, one by one, each iteration simulated."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipar_rpc.plan.strategies import Method
from pipar_rpc.selector.choose import NOISE, best_of_each, choose, predict
from pipar_rpc.selector.facts import (
    Crossing,
    DeviceFacts,
    Facts,
    MessageCost,
    ServerFacts,
    UnitSizes,
    move_seconds,
)
from pipar_rpc.selector.prediction import mean_iteration_s
from pipar_rpc.selector.selection import Selection
from pipar_rpc.selector.tables import LABEL_BYTES
from pipar_rpc.testbed.unit_times import UnitTimes, interpolate
from pipar_rpc.timing.stage_recurrence import StageTimes
from tests.support.simulation import simulate

seconds = st.floats(0.001, 1)
mbps = st.floats(0.1, 100) | st.just(math.inf)
messages = st.just(MessageCost()) | st.builds(MessageCost, seconds, seconds, seconds, st.booleans())
byte_counts = st.integers(0, 100_000)


@st.composite
def unit_times(draw, name: str) -> UnitTimes:
    """Offsets and slopes, measured at three sizes."""
    forward, backward, encode, decode = (
        {size: offset + size * slope for size in (1, 4, 10)}
        for offset, slope in [(draw(seconds), draw(seconds)) for _ in range(4)]
    )
    return UnitTimes(name, forward, backward, draw(seconds), encode, decode)


@st.composite
def crossings(draw, names: list[str]) -> Crossing:
    """Payloads with bytes for each sample and for each message, and what codecs take on the server."""
    up, down = (
        np.array([draw(byte_counts) + draw(byte_counts) * np.arange(13.0) for _ in names]) for _ in range(2)
    )
    return Crossing(up, down, [draw(unit_times(name)) for name in names])


@st.composite
def problems(draw) -> tuple[list[DeviceFacts], ServerFacts, list[UnitSizes]]:
    num_units = draw(st.integers(1, 4))
    names = [f"unit{n}" for n in range(num_units)]

    def device() -> DeviceFacts:
        return DeviceFacts(
            units=[draw(unit_times(name)) for name in names],
            uplink_mbps=draw(mbps),
            downlink_mbps=draw(mbps),
            uplink_latency_s=draw(seconds),
            downlink_latency_s=draw(seconds),
            batch_size=draw(st.integers(2, 12)),
            smallest=draw(st.sampled_from([1, 2])),
            iterations=draw(st.sampled_from([1, 7, math.inf])),
            crossing=draw(st.none() | crossings(names)),
            message=draw(messages),
        )

    devices = [device() for _ in range(draw(st.integers(1, 3)))]
    server = ServerFacts(
        [draw(unit_times(name)) for name in names],
        {1: 1.0, 6: draw(st.floats(1, 3))},
        message_s=draw(st.sampled_from([0.0, 0.3])),
        shared_message_s=draw(st.sampled_from([0.0, 0.2])),
        message_cpu_s=draw(st.sampled_from([0.0, 0.1])),
        cores=draw(st.sampled_from([1.0, 4.0, math.inf])),
        devices_here=draw(st.integers(1, 3)),
    )
    sent = byte_counts | st.none()
    sizes = [UnitSizes(*(draw(byte_counts) for _ in range(3)), sent_bytes=draw(sent)) for _ in names]
    return devices, server, sizes


def brute_force(device, server, sizes, halves, p, n):
    """Seconds of (P, N) for each iteration, models included."""
    samples = [len(part) for part in np.array_split(np.arange(device.batch_size), n)]
    together = {size: server.halves_at_once[size] for size in sorted(server.halves_at_once)}
    slowdown = np.maximum(1.0, halves / np.interp(samples, list(together), list(together.values())))
    alone = p == len(sizes)
    handling = 0 if alone else max(server.message_s, halves * server.shared_message_s)

    def total(units, direction):
        return np.array(
            [sum(interpolate(getattr(unit, direction), size) for unit in units) for size in samples]
        )

    message = device.message
    labels, crossing = 0 if alone else LABEL_BYTES, device.crossing
    if alone:
        up, down, here, there = np.zeros(n), np.zeros(n), [], []
    elif crossing is None:
        up = down = np.array(samples) * sizes[p - 1].activation_bytes
        here, there = [], []
    else:
        up, down = crossing.uplink_bytes[p - 1][samples], crossing.downlink_bytes[p - 1][samples]
        here, there = [device.units[p - 1]], [crossing.server[p - 1]]
    times = StageTimes(
        device_forward=total(device.units[:p], "forward")
        + total(here, "encode")
        + (0 if alone else message.submit_s),
        uplink=(up + labels * np.array(samples)) * 8e-6 / device.uplink_mbps,
        server_forward=slowdown * (total(server.units[p:], "forward") + total(there, "decode")) + handling,
        server_backward=slowdown * (total(server.units[p:], "backward") + total(there, "encode")),
        downlink=down * 8e-6 / device.downlink_mbps,
        device_backward=total(device.units[:p], "backward") + total(here, "decode"),
        uplink_latency=0 if alone else device.uplink_latency_s,
        downlink_latency=0 if alone else device.downlink_latency_s + message.answer_s,
        update=sum(unit.update for unit in device.units[:p]),
    )
    mbit = sum(unit.model_bytes for unit in sizes[:p]) * 8e-6
    moving = (mbit / device.uplink_mbps + mbit / device.downlink_mbps) / device.iterations
    cores_s = core_seconds(device, server, halves, p, n, samples, total, here, there)
    return max(simulate(times, n), cores_s) + moving


def core_seconds(device, server, halves, p, n, samples, total, here, there):
    """What the server's machine computes in an iteration, on all its cores."""
    alone, message = p == len(server.units), device.message

    def both(units):
        return sum(total(units, "forward")) + sum(total(units, "backward"))

    def coded(units):
        return sum(total(units, "encode")) + sum(total(units, "decode"))

    spent = both(server.units[p:]) + coded(there) + sum(unit.update for unit in server.units[p:])
    spent = halves * (spent + (0 if alone else n * server.message_cpu_s))
    if message.beside_server:
        every = [
            sum(
                interpolate(getattr(unit, direction), device.batch_size)
                for unit in units
                for direction in ("forward", "backward")
            )
            for units in (device.units, server.units)
        ]
        own = both(device.units[:p]) + coded(here) + sum(unit.update for unit in device.units[:p])
        own = own * every[1] / every[0] + (0 if alone else n * message.cpu_s)
        spent += server.devices_here * own
    return spent / server.cores


@settings(max_examples=300, deadline=None)
@given(problems())
def test_the_choice_is_the_best_of_all(problem):
    devices, server, sizes = problem
    rankings = choose(devices, server, sizes)
    using = sum(ranking[0].split_point < len(sizes) for ranking in rankings)
    # The server is shared by as many as use it, or by more where with fewer more would.
    assert any(
        all(is_best(*own, server, sizes, halves) for own in zip(devices, rankings, strict=True))
        for halves in range(using, len(devices) + 1)
    )


def is_best(device, ranking, server, sizes, halves):
    counts = range(1, device.batch_size // device.smallest + 1)
    every = {
        (p, n): brute_force(device, server, sizes, halves, p, n)
        for p in range(1, len(sizes) + 1)
        for n in (counts if p < len(sizes) else [1])
    }
    found = [candidate.total_s for candidate in ranking]
    own = [every[candidate.split_point, candidate.num_micro_batches] for candidate in ranking]
    least, (chosen_p, chosen_n) = min(every.values()), ranking[0].cut
    within = [n for p, n in every if p == chosen_p and every[p, n] <= (1 + NOISE) * least * (1 + 1e-9)]
    others = sorted(seconds for cut, seconds in every.items() if cut != ranking[0].cut)
    return (
        found == pytest.approx(own)
        and chosen_n == min(within)
        and least == pytest.approx(min(every[p, n] for p, n in every if p == chosen_p))
        and found[1:] == pytest.approx(others[: len(ranking) - 1])
    )


FLAT = {1: 0.1, 10: 1.0}  # in proportion
UNIT = UnitTimes("unit", FLAT, FLAT, 0.0)
DEVICE = DeviceFacts([UNIT] * 2, 8.0, 8.0, 0.0, 0.0, 10, 1, math.inf)
SIZES = [UnitSizes(10_000, 1_000_000, 0)] * 2
FAST = ServerFacts([UNIT.scaled(0.01)] * 2, {10: 4.0})


def best(*devices, server=FAST, sizes=SIZES, **options):
    return [(r[0].split_point, r[0].num_micro_batches) for r in choose(devices, server, sizes, **options)]


def test_strong_devices_on_slow_links_train_alone():
    strong = replace(DEVICE, units=[UNIT.scaled(0.001)] * 2, uplink_mbps=0.01, downlink_mbps=0.01)
    assert best(DEVICE, strong) == [(1, best(DEVICE)[0][1]), (2, 1)]


def test_moving_models_counts_by_round():
    """Alone, an iteration takes 4 s; split, more than 10. But models take 2,000 s."""
    slow = replace(DEVICE, uplink_mbps=0.08, downlink_mbps=0.08)
    sizes = [UnitSizes(10_000, 0, 0), UnitSizes(0, 10_000_000, 0)]
    assert best(slow, sizes=sizes)[0] == (2, 1)
    assert best(replace(slow, iterations=10_000), sizes=sizes)[0] == (2, 1)
    assert best(replace(slow, iterations=10), sizes=sizes)[0][0] == 1


def test_memory_limits_the_split_point():
    sizes = [UnitSizes(10_000, 1000, 50), UnitSizes(0, 1000, 50)]
    weak = replace(DEVICE, uplink_mbps=0.001)  # better alone
    assert best(weak, sizes=sizes)[0] == (2, 1)
    assert best(replace(weak, memory_bytes=6000 + 1000), sizes=sizes)[0] == (2, 1)
    assert best(replace(weak, memory_bytes=6999), sizes=sizes)[0][0] == 1
    with pytest.raises(ValueError, match="device 2: P = 1 needs 0 MB, and 0 MB are left"):
        best(DEVICE, replace(weak, memory_bytes=3499), sizes=sizes)


def test_cuts_of_a_checkpoint_are_kept_if_they_fit():
    sizes = [UnitSizes(10_000, 1000, 50), UnitSizes(0, 1000, 50)]
    devices = [DEVICE, replace(DEVICE, memory_bytes=6999)]
    rankings = choose(devices, FAST, sizes)
    jobs = [SimpleNamespace(name=f"device{number}") for number in (1, 2)]
    plan = SimpleNamespace(devices=jobs, recut=lambda cuts: cuts)
    kept = Selection(plan, rankings, Facts(devices, FAST, sizes), (True, True)).keep([(2, 1), (2, 1)])
    assert kept.plan == [(2, 1), rankings[1][0].cut]
    assert rankings[1][0].split_point == 1


def test_micro_batches_cost_the_cores_that_all_processes_share():
    """In the end each costs (2 (1 + 0.5)) / 2 s there, which is more than it saves."""
    apart, crowded = (MessageCost(cpu_s=0.5, beside_server=own) for own in (False, True))
    slow = replace(DEVICE, uplink_mbps=0.8, downlink_mbps=0.8)
    server = replace(FAST, message_cpu_s=1.0, cores=2.0, devices_here=2)

    def chosen(message, there):
        return best(*[replace(slow, message=message)] * 2, server=there, split_points=[1])[0][1]

    assert chosen(apart, FAST) == chosen(apart, replace(server, message_cpu_s=0.0)) > 3
    assert chosen(crowded, server) <= 2
    for message, spent in ((crowded, 0.02 + 0.02 + 10 * 1.5), (apart, 0.02 + 10 * 1.0)):
        both = [replace(slow, message=message)] * 2
        own, _ = predict(both, server, SIZES, [(1, 10)] * 2)
        assert own.iteration_s == pytest.approx(
            2 * spent / 2
        )  # 2 on 2 cores; as fast as the server's machine


def test_sending_follows_the_forward_pass_and_the_answer_comes_later():
    message = MessageCost(submit_s=0.25, answer_s=0.125)
    (plain,) = predict([DEVICE], FAST, SIZES, [(1, 1)])
    (own,) = predict([replace(DEVICE, message=message)], FAST, SIZES, [(1, 1)])
    assert own.iteration_s == pytest.approx(plain.iteration_s + 0.25 + 0.125)
    assert own.stages.device_forward == plain.stages.device_forward + 0.25
    (alone,) = predict([replace(DEVICE, message=message)], FAST, SIZES, [(2, 1)])
    assert alone.iteration_s == predict([DEVICE], FAST, SIZES, [(2, 1)])[0].iteration_s


def test_of_equal_predictions_the_fewest_micro_batches_are_chosen():
    (ranking,) = choose([DEVICE], FAST, SIZES, split_points=[1], count=10)
    seconds = {own.num_micro_batches: own.total_s for own in ranking}
    least = min(seconds.values())
    within = [n for n, own in seconds.items() if own <= (1 + NOISE) * least]
    assert ranking[0].num_micro_batches == min(within)
    assert [own.total_s for own in ranking[1:]] == sorted(own.total_s for own in ranking[1:])
    assert best_of_each([DEVICE], FAST, SIZES, Method.exhaustive, 1)[0][0].cut == ranking[0].cut


def test_fewer_halves_share_the_server_if_some_devices_train_alone():
    """Two of three train alone, so the third has the server to itself."""
    alone = replace(DEVICE, units=[UNIT.scaled(1e-4)] * 2)
    server = ServerFacts([UNIT] * 2, {10: 1.0})
    first, *_ = choose(
        [replace(DEVICE, units=[UNIT, UNIT.scaled(100)]), alone, alone], server, [UnitSizes(1, 1, 1)] * 2
    )
    assert first[0].split_point == 1
    assert first[0].stages.server_forward == pytest.approx(1.0 / first[0].num_micro_batches)


def test_split_points_can_be_limited():
    assert best(DEVICE, split_points=[2]) == [(2, 1)]


def test_the_published_formula():
    """N = 1 + ceil((u + f^s + b^s + d) / min(f^c, b^c)), P with the shortest iteration among 1..Q-1."""
    device = replace(
        DEVICE, units=[UnitTimes("a", {10: 0.5}, {10: 0.8}, 0), UnitTimes("b", {10: 9}, {10: 9}, 0)]
    )
    server = ServerFacts([UNIT, UnitTimes("b", {10: 0.3}, {10: 0.4}, 0)], {10: 1.0})
    sizes = [UnitSizes(100_000 - LABEL_BYTES, 0, 0), UnitSizes(1, 0, 0)]  # 1 s up
    away = 1.0 + 0.3 + 0.4 + (100_000 - LABEL_BYTES) * 8e-5 / 8
    assert best(device, server=server, sizes=sizes, method=Method.paper)[0] == (1, 1 + math.ceil(away / 0.5))


def test_the_last_mini_batch_of_an_epoch_may_be_smaller():
    """25 samples in batches of 10: two whole ones, and one of 5."""
    device = replace(DEVICE, num_samples=25)
    for place in ((1, 4), (1, 10), (2, 1)):
        (chosen,) = predict([device], FAST, SIZES, [place])
        halves = int(place[0] == 1)
        small = replace(device, batch_size=5)
        last = brute_force(small, FAST, SIZES, halves, place[0], min(place[1], 5))
        mean = mean_iteration_s(device, FAST, SIZES, halves, chosen)
        assert mean == pytest.approx((2 * chosen.iteration_s + last) / 3)
        whole = replace(device, num_samples=30)
        assert mean_iteration_s(whole, FAST, SIZES, halves, chosen) == chosen.iteration_s
    assert mean_iteration_s(DEVICE, FAST, SIZES, halves, chosen) == chosen.iteration_s


def test_moving_layers_costs_weights_and_momentum_down_and_momentum_up():
    sizes = [UnitSizes(0, 1_000_000, 0)] * 3
    device = replace(DEVICE, uplink_mbps=4.0, downlink_mbps=8.0)
    assert move_seconds(sizes, device, 1, 3) == pytest.approx(2 * 2 * 8 / 8)
    assert move_seconds(sizes, device, 3, 2) == pytest.approx(8 / 4)
    assert move_seconds(sizes, device, 2, 2) == 0
