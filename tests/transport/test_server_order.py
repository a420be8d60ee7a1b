"""Whose micro-batch is computed next: what every order keeps, and what each promises beyond that."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.base.dotted import Choice
from pipar_rpc.base.errors import UserError
from pipar_rpc.base.threads import open_pool
from pipar_rpc.plan.strategies import ORDERS as CHOICES
from pipar_rpc.plan.strategies import STRATEGIES, Strategy
from pipar_rpc.transport import server_order
from pipar_rpc.transport.server_order import ORDERS, InOrder, open_order

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LENGTHS = (2, 3, 1)  # iterations of three devices


@pytest.fixture(params=[*ORDERS, "own"])
def order(request, monkeypatch):
    """Also the one of docs/extending.md."""
    if request.param == "own":
        monkeypatch.syspath_prepend(EXAMPLES)
        from own_server_order import FirstCome

        monkeypatch.setitem(server_order.ORDERS, "own", FirstCome)
    with open_order(request.param, len(LENGTHS)) as opened:
        opened.begin(LENGTHS, 0)
        yield opened


def submit(order, ran, index, number, ends=True):
    order.lane(index).submit(number, lambda: ran.append((index, number)), ends)


def settle(order):
    for index in range(len(LENGTHS)):
        order.lane(index).settle(5)


def test_every_strategy_names_an_order_and_users_may_choose_the_others():
    shared = Strategy(shared_half=True)
    kinds = [*STRATEGIES.values(), shared, replace(shared, keeps_labels=True), replace(shared, merged=True)]
    assert {strategy.server_order.name for strategy in kinds} | {*CHOICES} == ORDERS.keys()
    assert replace(shared, order=Choice("own")).server_order == Choice("own")


def test_each_device_is_served_in_the_order_of_its_numbers(order):
    """Two epochs, which arrive backwards."""
    ran = []
    for index, length in reversed(list(enumerate(LENGTHS))):
        for number in reversed(range(2 * length)):
            submit(order, ran, index, number)
    settle(order)
    for index, length in enumerate(LENGTHS):
        assert [number for who, number in ran if who == index] == list(range(2 * length))


def test_a_device_that_has_left_holds_nobody_up(order):
    ran = []
    order.lane(1).leave()
    for index in (0, 2):
        for number in range(2 * LENGTHS[index]):
            submit(order, ran, index, number)
    settle(order)
    assert len(ran) == 2 * (LENGTHS[0] + LENGTHS[2])


def test_in_a_rotation_all_calls_of_an_iteration_come_in_a_row():
    """Device 2 leaves between the two: its turn is over."""
    ran = []
    with open_order("rotation", 3) as order:
        order.begin((2, 2, 2), 0)
        for index, number in [(2, 0), (1, 0), (0, 1), (0, 0), (2, 1), (0, 2), (0, 3), (2, 2), (2, 3)]:
            submit(order, ran, index, number, ends=number % 2 == 1)
        order.lane(0).settle(5)
        assert ran == [(0, 0), (0, 1), (1, 0)]
        order.lane(1).leave()
        order.lane(0).settle(5)
    assert ran[3:] == [(2, 0), (2, 1), (0, 2), (0, 3), (2, 2), (2, 3)]


def test_to_settle_is_to_wait_for_the_call_that_runs(order):
    ended, lane = threading.Event(), order.lane(0)
    lane.submit(0, lambda: ended.wait(10))
    with pytest.raises(TimeoutError):
        lane.settle(0.01)
    ended.set()
    lane.settle(5)


def test_with_separate_threads_a_device_waits_for_no_other():
    ended, ran = threading.Event(), []
    with open_order("separate", 2) as order:
        order.lane(0).submit(0, lambda: ended.wait(10))
        submit(order, ran, 1, 0)
        order.lane(1).settle(5)
        assert ran == [(1, 0)]
        ended.set()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms())
def test_a_rotation_runs_iteration_by_iteration_whoever_is_first(lengths, random):
    ran = []
    with open_order("rotation", len(lengths)) as rotation:
        rotation.begin(lengths, 0)
        calls = [(index, number) for index, length in enumerate(lengths) for number in range(2 * length)]
        random.shuffle(calls)
        for index, number in calls:
            rotation.lane(index).submit(
                number, lambda index=index, number=number: ran.append((index, number))
            )
        rotation.lane(0).settle(5)
    assert ran == in_rotation(lengths, range(len(lengths)))


def in_rotation(lengths, present):
    """Two epochs, from the start."""
    return [
        (index, epoch * lengths[index] + iteration)
        for epoch in range(2)
        for iteration in range(max(lengths[index] for index in present))
        for index in present
        if iteration < lengths[index]
    ]


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.data())
def test_a_rotation_passes_over_a_device_that_has_left(lengths, data):
    """Whatever it has done before, the others' turns are what they would be without it."""
    gone = data.draw(st.integers(0, len(lengths) - 1))
    done = data.draw(st.integers(0, 2 * lengths[gone]))
    ran = []
    with open_order("rotation", len(lengths)) as rotation:
        rotation.begin(lengths, 0)
        for index, length in enumerate(lengths):
            for number in range(done if index == gone else 2 * length):
                call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
                rotation.lane(index).submit(number, call)
        rotation.lane(gone).leave()
        rotation.lane(0).settle(5)
    others = [index for index in range(len(lengths)) if index != gone]
    assert [entry for entry in ran if entry[0] != gone] == in_rotation(lengths, others)


def test_a_rotation_begins_inside_an_epoch():
    ran = []
    with open_order("rotation", 2) as rotation:
        rotation.begin((2, 3), 2)
        for index, number in ((0, 0), (1, 1), (0, 1), (1, 0)):
            call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
            rotation.lane(index).submit(number, call)
        rotation.lane(0).settle(5)
    assert ran == [(1, 0), (0, 0), (1, 1), (0, 1)]  # the first epoch has one iteration left, of device 2


def test_calls_run_in_the_order_of_their_numbers():
    """An upload once overtook the training that it was to follow."""
    with open_pool("test") as pool:
        in_order, seen = InOrder(pool), []
        for number in reversed(range(50)):
            in_order.submit(number, lambda number=number: seen.append(number))
        in_order.settle(5)
    assert seen == list(range(50))


@given(st.integers(2, 4), st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=4), st.integers(1, 3))
def test_a_rotation_passes_over_devices_that_sit_a_round_out(devices, rests, iterations):
    """The others' turns are iteration by iteration in the order of their numbers, in every round."""
    done, ran, expected = [0] * devices, [], []
    with open_order("rotation", devices) as rotation:
        rotation.begin([iterations * len(rests)] * devices, 0)
        for round_number, resting in enumerate(rests):
            training = [index for index in range(devices) if index not in resting]
            for index in range(devices):
                rotation.lane(index).begin_round(round_number * iterations, index in resting)
            for index in reversed(training):
                for number in range(done[index], done[index] + iterations):
                    call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
                    rotation.lane(index).submit(number, call)
            rotation.lane(0).settle(5)
            expected += [(index, done[index] + step) for step in range(iterations) for index in training]
            for index in training:
                done[index] += iterations
    assert ran == expected


def test_an_order_of_the_user_s_is_made_by_its_name(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    ran = []
    with open_order(Choice(target="own_server_order.FirstCome"), 2) as order:
        order.begin((1, 1), 0)
        submit(order, ran, 1, 0)
        order.lane(1).settle(5)
    assert ran == [(1, 0)]
    with (
        pytest.raises(
            UserError, match=r"server.order._target_=builtins.list: must be a class with the methods"
        ),
        open_order(Choice(target="builtins.list"), 2),
    ):
        pass
