"""Calls at given times: in order, on one thread for all owners, and none after the end."""

import threading
import time

from pipar_rpc.base.alarms import Alarms


def test_calls_are_made_in_their_time_and_in_order():
    alarms, made, done = Alarms(), [], threading.Event()
    began = time.monotonic()

    def call(number):
        made.append((number, time.monotonic() - began))
        if number == 3:
            done.set()

    for number, after_s in ((1, 0.05), (2, 0.02), (3, 0.1)):  # the second may not overtake the first
        alarms.at(began + after_s, lambda number=number: call(number))
    assert made == []
    assert done.wait(10)
    assert [number for number, _ in made] == [1, 2, 3]
    assert all(seconds >= after_s for (_, seconds), after_s in zip(made, (0.05, 0.05, 0.1), strict=True))
    alarms.close()


def test_what_is_due_is_done_at_once_unless_an_earlier_call_waits():
    alarms, made = Alarms(), []
    alarms.at(0.0, lambda: made.append(threading.current_thread()))
    assert made == [threading.current_thread()]
    now = time.monotonic()
    alarms.at(now + 1000, lambda: made.append(None))
    alarms.at(now, lambda: made.append(None))
    time.sleep(0.05)
    assert len(made) == 1
    alarms.close()


def test_many_owners_share_one_thread_which_ends_with_the_last():
    before = set(threading.enumerate())  # those of earlier tests may still be ending

    def clocks():
        return [own for own in threading.enumerate() if own not in before and own.name.startswith("clock_")]

    made, done = [], threading.Semaphore(0)
    owners = [Alarms() for _ in range(100)]
    began = time.monotonic()
    for number, alarms in enumerate(owners):
        alarms.at(began + 0.1 + number / 1e4, lambda number=number: (made.append(number), done.release()))
    assert len(clocks()) == 1
    for _ in owners:
        assert done.acquire(timeout=10)
    assert made == list(range(100))
    for alarms in owners:
        alarms.close()
        alarms.close()
    deadline = time.monotonic() + 10
    while clocks():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_is_done_after_the_end():
    alarms, other, made, done = Alarms(), Alarms(), [], threading.Event()
    now = time.monotonic()
    alarms.at(now + 0.05, lambda: made.append(1))
    other.at(now + 0.1, done.set)
    alarms.close()
    alarms.at(now, lambda: made.append(2))
    assert done.wait(10)
    assert made == []
    other.close()


def test_an_error_of_one_owner_keeps_nobody_else_waiting(caplog):
    first, second, done = Alarms(), Alarms(), threading.Event()
    now = time.monotonic()
    first.at(now + 0.02, lambda: 1 / 0)
    second.at(now + 0.05, done.set)
    assert done.wait(10)
    assert "what was due could not be done" in caplog.text
    first.close()
    second.close()
