"""Orders with one thread for all devices: the priority, and what is computed together.

The rotation is among the others in test_server_order.py.
"""

import threading

from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.transport.server_order import open_order


def submit(order, ran, index, number, ends=True):
    order.lane(index).submit(number, lambda: ran.append((index, number)), ends)


def test_the_device_that_has_done_the_least_of_its_epoch_is_served_first():
    """All micro-batches wait when the server becomes free; devices have two, three and four iterations."""
    ran, begun, go = [], threading.Event(), threading.Event()
    with open_order("priority", 3) as order:
        order.begin((2, 3, 4), 0)
        order.lane(0).submit(0, lambda: (begun.set(), go.wait(10)))
        assert begun.wait(10)
        for index, count in ((2, 4), (0, 1), (1, 3)):
            for number in range(count):
                submit(order, ran, index, number + (index == 0))
        go.set()
        order.lane(0).settle(5)
        shares = [(index, (number + 1) / (2, 3, 4)[index]) for index, number in ran]
        # After device 1's first of two, that of the others with the smaller share, and of equal ones the one
        # that was served least recently.
        assert ran == [(1, 0), (2, 0), (2, 1), (1, 1), (0, 1), (2, 2), (1, 2), (2, 3)], shares


def test_a_priority_counts_iterations_and_begins_anew_with_each_round():
    """Two micro-batches in each iteration of device 1, one in those of device 2."""
    ran, begun, go = [], threading.Event(), threading.Event()
    with open_order("priority", 2) as order:
        order.begin((4, 4), 0)
        for number in range(4):
            submit(order, ran, 1, number)
        order.lane(1).settle(5)
        for index in (0, 1):
            order.lane(index).begin_round(2, rests=False)
        order.lane(1).submit(4, lambda: (begun.set(), go.wait(10)))
        assert begun.wait(10)
        for number in range(4):
            submit(order, ran, 0, number, ends=number % 2 == 1)
        submit(order, ran, 1, 5)
        go.set()
        order.lane(0).settle(5)
    assert ran[4:] == [(0, 0), (0, 1), (1, 5), (0, 2), (0, 3)]


def test_a_round_begins_when_what_runs_has_run():
    """Otherwise device 1's call, which ends after the round has begun, would take the round's first turn."""
    ran, begun, go = [], threading.Event(), threading.Event()
    with open_order("rotation", 2) as order:
        order.begin((1, 1), 0)
        order.lane(0).submit(0, lambda: (begun.set(), go.wait(10)))
        assert begun.wait(10)
        for index in (0, 1):
            order.lane(index).begin_round(0, rests=False)
        go.set()
        order.lane(0).settle(5)
        submit(order, ran, 1, 0)
        submit(order, ran, 0, 1)
        order.lane(0).settle(5)
    assert ran == [(0, 1), (1, 0)]


@given(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=4),
    st.randoms(),
    st.data(),
)
def test_micro_batches_are_handed_in_together_whoever_is_first(devices, random, data):
    """Numbers of micro-batches by device and iteration, in two epochs; devices may have left before."""
    gone = data.draw(st.sets(st.integers(0, len(devices) - 1), max_size=len(devices) - 1))
    handed, computed = [], []

    def compute(last):
        if handed:
            computed.append((sorted(handed), last))
        handed.clear()

    with open_order("together", len(devices), compute) as order:
        order.begin([len(iterations) for iterations in devices], 0)
        calls = []
        for index, iterations in enumerate(devices):
            counts = [(count, epoch, step) for epoch in range(2) for step, count in enumerate(iterations)]
            places = [
                (epoch, step, n, n == count) for count, epoch, step in counts for n in range(1, count + 1)
            ]
            calls += [(index, number, place) for number, place in enumerate(places) if index not in gone]
        for index in gone:
            order.lane(index).leave()
        random.shuffle(calls)
        for index, number, (epoch, step, n, ends) in calls:
            call = lambda index=index, place=(epoch, step, n): handed.append((index, place))  # noqa: E731
            order.lane(index).submit(number, call, ends)
        order.lane(0).settle(5)
    there = [index for index in range(len(devices)) if index not in gone]
    expected = []
    for epoch in range(2):
        for step in range(max(len(devices[index]) for index in there)):
            counts = {index: devices[index][step] for index in there if step < len(devices[index])}
            for n in range(1, max(counts.values()) + 1):
                group = [(index, (epoch, step, n)) for index, count in counts.items() if n <= count]
                expected.append((group, n == max(counts.values())))
    assert computed == expected


def test_who_leaves_in_the_middle_does_not_hold_up_what_the_others_have_handed_in():
    """Device 3 within its iteration: what is there is computed, and the iteration ends without it."""
    handed, computed = [], []

    def compute(last):
        computed.append((list(handed), last))
        handed.clear()

    with open_order("together", 3, compute) as order:
        order.begin((2, 2, 2), 0)
        for index in range(3):
            submit(order, handed, index, 0, ends=False)
        for index in (0, 1):
            submit(order, handed, index, 1, ends=index == 0)
        order.lane(0).settle(5)
        assert computed == [([(0, 0), (1, 0), (2, 0)], False)]
        order.lane(2).leave()
        order.lane(0).settle(5)
        assert computed[1:] == [([(0, 1), (1, 1)], False)]
        order.lane(1).leave()
        order.lane(0).settle(5)
        assert computed[2:] == [([], True)]
        submit(order, handed, 0, 2)
        order.lane(0).settle(5)
        assert computed[3:] == [([(0, 2)], True)]
