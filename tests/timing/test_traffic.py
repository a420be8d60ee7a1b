"""What real lines carry, told from when messages left and arrived: against lines whose rate is known."""

import time
from concurrent.futures import Future

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.plan.deadlines import Deadlines, DeadlineSpec
from pipar_rpc.testbed.link import Link
from pipar_rpc.testbed.link_rates import LinkTest, measure_rates
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.timing.traffic import (
    ENOUGH_S,
    MESSAGE_BYTES,
    RECENT,
    RUN_S,
    NotedMessage,
    Ping,
    Traffic,
    TrafficLog,
    carried,
    ping,
)
from pipar_rpc.training.device_loop import Device
from pipar_rpc.transport.server_port import Port
from tests.support.clock import Clock

AHEAD_S = 1000.0  # the device's clock
KNOWN = 123.0  # Mbit/s, before
PAIR = (KNOWN, KNOWN)


@pytest.fixture
def clock(monkeypatch):
    """Time passes only when it is told to."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


class Line:
    """A FIFO queue with a rate and a latency, like a shaped interface."""

    def __init__(self, mbps, latency_s):
        self.mbps, self.latency_s, self.free_at = mbps, latency_s, 0.0

    def carry(self, num_bytes, now):
        self.free_at = max(self.free_at, now) + num_bytes * 8e-6 / self.mbps
        return self.free_at + self.latency_s


def noted(messages):
    recent = TrafficLog()
    recent._recent.extend(messages)
    return recent


@given(
    st.floats(0.5, 1000),
    st.floats(0.5, 1000),
    st.floats(0, 0.2),
    st.integers(MESSAGE_BYTES - 1000, 400_000),
    st.lists(st.floats(0, 0.3), min_size=1, max_size=200),
    st.randoms(),
)
def test_the_rate_of_a_line_is_found(up_mbps, down_mbps, latency_s, num_bytes, pauses, random):
    """Whether messages queue or not, in whatever order they are noted, with clocks that differ."""
    up, down = Line(up_mbps, latency_s), Line(down_mbps, latency_s)
    there, here = ({}, {}), ([], [])
    now = 0.0
    for number, pause_s in enumerate(pauses):
        now += pause_s
        there[0][number] = now + AHEAD_S
        arrived = up.carry(num_bytes, now)
        here[0].append(NotedMessage(number, num_bytes, arrived))
        here[1].append(NotedMessage(number, num_bytes, arrived))  # goes back at once
        there[1][number] = down.carry(num_bytes, arrived) + AHEAD_S
    for messages in here:
        random.shuffle(messages)
    took = Ping(2 * latency_s, latency_s + AHEAD_S, latency_s - AHEAD_S)
    found = carried(Traffic(*map(noted, here)), there, took, PAIR)
    for mbps, told in zip((up_mbps, down_mbps), found, strict=True):
        each_s = num_bytes * 8e-6 / mbps
        if num_bytes < MESSAGE_BYTES:
            assert told is None
        elif each_s > 1.01 * RUN_S and len(pauses) * each_s > 1.01 * ENOUGH_S:
            assert told == pytest.approx(mbps, rel=1e-3)
        else:  # nothing, the rate, or a lower limit of it
            assert told is None or told == KNOWN or told <= mbps * 1.001


def test_short_messages_tell_only_if_they_queue():
    """10 ms each: one after the other with pauses, and all at once."""
    line, pauses = Line(80.0, 0.0), {number: 0.1 * number for number in range(20)}
    alone = [NotedMessage(number, 100_000, line.carry(100_000, pauses[number])) for number in range(20)]
    took = Ping(0, 0, 0)
    assert carried(Traffic(up=noted(alone)), (pauses, {}), took, (30.0, 30.0))[0] == pytest.approx(40.0)
    assert carried(Traffic(up=noted(alone)), (pauses, {}), took, PAIR)[0] == KNOWN
    line = Line(80.0, 0.0)
    queued = [NotedMessage(number, 100_000, line.carry(100_000, 0.0)) for number in range(20)]
    left = dict.fromkeys(range(20), 0.0)
    assert carried(Traffic(up=noted(queued)), (left, {}), took, PAIR)[0] == pytest.approx(80.0)


def test_only_the_last_second_counts():
    slow, fast = Line(2.0, 0.0), Line(20.0, 0.0)
    left, here = {}, []
    for number in range(100):
        line = slow if number < 50 else fast
        fast.free_at = max(slow.free_at, fast.free_at)
        left[number] = 0.0
        here.append(NotedMessage(number, 100_000, line.carry(100_000, 0.0)))
    assert carried(Traffic(up=noted(here)), (left, {}), Ping(0, 0, 0), PAIR)[0] == pytest.approx(20.0)


def test_messages_that_one_end_has_forgotten_do_not_count():
    messages = [NotedMessage(0, 10**6, 1.0), NotedMessage(1, 10**6, 2.0)]
    took = Ping(0, 0, 0)
    assert carried(Traffic(up=noted(messages)), ({1: 1.0}, {}), took, PAIR)[0] == pytest.approx(8.0)
    assert carried(Traffic(up=noted(messages)), ({}, {}), took, PAIR) == (None, None)
    recent = TrafficLog()
    for number in range(RECENT + 1):
        recent.note(number)
    assert [message.number for message in recent.drain()] == list(range(1, RECENT + 1))
    assert recent.drain() == []


def test_the_clocks_are_compared_by_the_fastest_ping(clock):
    ways = iter([(0.5, 0.1), (0.02, 0.03), *[(0.1, 0.1)] * 5])

    def ask():
        down_s, up_s = next(ways)
        clock.now += down_s + up_s
        return clock.now - up_s + AHEAD_S

    assert ping(ask) == pytest.approx((0.05, 0.02 + AHEAD_S, 0.03 - AHEAD_S))
    assert next(ways, None) is None


class Asked:
    """A device, asked directly."""

    def __init__(self, messages):
        self.messages, self.asked = messages, []

    def clock(self):
        self.asked.append(LinkTest.clock)
        return time.monotonic()

    def __call__(self, method, message):
        self.asked.append(method)


def test_transfers_are_timed_only_where_traffic_does_not_tell():
    now = time.monotonic()
    here = Traffic(up=noted([NotedMessage(0, 10**6, now + 1.0)]), down=noted([NotedMessage(0, 10**6, now)]))
    device = Asked(({0: now}, {0: now + 2.0}))
    told = carried(here, device.messages, ping(device.clock), PAIR)
    found = measure_rates(device, ping(device.clock), *told)
    assert found[:2] == pytest.approx((8.0, 4.0), rel=0.05)
    assert set(device.asked) == {LinkTest.clock}
    assert carried(here, device.messages, ping(device.clock), PAIR) == (None, None)  # all is used up
    assert (
        measure_rates(device, ping(device.clock), None, None).uplink_mbps > 100
    )  # these transfers take no time
    assert {LinkTest.give, LinkTest.take} <= set(device.asked)


class Moves:
    """A remote object whose calls take a tenth of a second."""

    def __init__(self, clock):
        self.clock = clock

    def call(self, method, *args):
        self.clock.now += 0.1
        done = Future()
        done.set_result({"w": torch.zeros(25_000)} if method is Device.upload else None)  # 100 KB
        return done


def test_models_that_move_tell_a_rate_too(clock):
    port = Port("device1", lambda *args: None, Link(), Timeline())
    handle = DeviceHandle(
        "device1", Moves(clock), port, None, Timeline(), Deadlines(DeadlineSpec(1, 1, 1), 0.0), False
    )
    assert handle.model_mbps(Device.upload) is None
    handle.call(Device.upload)
    handle.call(Device.load, {"w": torch.zeros(50_000)})
    assert handle.model_mbps(Device.upload) == pytest.approx(8.0)
    assert handle.model_mbps(Device.upload) is None  # told once
    assert handle.model_mbps(Device.load, answer_s=0.06) is None  # too short, without what an answer takes
    handle.call(Device.load, {"w": torch.zeros(50_000)})
    assert handle.model_mbps(Device.load, answer_s=0.02) == pytest.approx(20.0)
    port.close()
