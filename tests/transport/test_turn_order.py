"""Calls in the order of their numbers, and devices by turns."""

from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.base.threads import open_pool
from pipar_rpc.transport.turn_order import InOrder, Rotation


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms())
def test_a_rotation_runs_iteration_by_iteration_whoever_is_first(lengths, random):
    ran = []
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, len(lengths))
        rotation.lengths = lengths
        calls = [(index, number) for index, length in enumerate(lengths) for number in range(2 * length)]
        random.shuffle(calls)
        for index, number in calls:
            rotation.lane(index).submit(
                number, lambda index=index, number=number: ran.append((index, number))
            )
        rotation.settle(5)
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
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, len(lengths))
        rotation.lengths = lengths
        for index, length in enumerate(lengths):
            for number in range(done if index == gone else 2 * length):
                call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
                rotation.lane(index).submit(number, call)
        rotation.lane(gone).leave()
        rotation.settle(5)
    others = [index for index in range(len(lengths)) if index != gone]
    assert [entry for entry in ran if entry[0] != gone] == in_rotation(lengths, others)


def test_a_rotation_begins_inside_an_epoch():
    ran = []
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, 2)
        rotation.lengths, rotation.iteration = (2, 3), 2
        for index, number in ((0, 0), (1, 1), (0, 1), (1, 0)):
            call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
            rotation.lane(index).submit(number, call)
        rotation.settle(5)
    assert ran == [(1, 0), (0, 0), (1, 1), (0, 1)]  # the first epoch has one iteration left, of device 2


def test_calls_run_in_the_order_of_their_numbers():
    """An upload once overtook the training that it was to follow."""
    with open_pool("test") as pool:
        in_order, seen = InOrder(pool), []
        for number in reversed(range(50)):
            in_order.submit(number, lambda number=number: seen.append(number))
        in_order.settle(5)
    assert seen == list(range(50))
