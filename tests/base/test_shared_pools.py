"""Shares of pools: their calls begin in order, so many run at a time, and threads stay few."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from pipar_rpc.base import shared_pools
from pipar_rpc.base.shared_pools import Share, open_share, start_share
from pipar_rpc.base.threads import start_pool, start_thread


def threads(name):
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}_")]


def test_calls_of_a_share_run_one_after_the_other_in_order():
    seen, at_a_time = [], []
    with open_share("ordered", 4) as share:
        running = threading.Semaphore(1)

        def call(number):
            at_a_time.append(running.acquire(blocking=False))
            seen.append(number)
            running.release()

        for future in [share.submit(call, number) for number in range(100)]:
            future.result(10)
    assert seen == list(range(100))
    assert all(at_a_time)


def test_many_owners_share_few_threads_and_nobody_waits_for_an_idle_one():
    gate, busy = threading.Event(), threading.Barrier(4)
    shares = [start_share("few", 4) for _ in range(50)]
    blocked = [share.submit(lambda: (busy.wait(10), gate.wait(10))) for share in shares[:3]]
    busy.wait(10)
    others = [share.submit(abs, -number) for number, share in enumerate(shares[3:])]
    assert [future.result(10) for future in others] == list(range(47))
    assert len(threads("few")) <= 4
    gate.set()
    for future in blocked:
        future.result(10)
    for share in shares:
        share.shutdown()


def test_a_share_has_its_part_of_the_threads():
    """Two owners of four threads may have two calls each at a time, also where each wants all."""
    first, second = start_share("part", 4, most=4), start_share("part", 4, most=4)
    gate, running = threading.Event(), []

    def call(owner):
        running.append(owner)
        gate.wait(10)

    calls = [share.submit(call, owner) for owner, share in ((1, first), (2, second)) for _ in range(4)]
    deadline = time.monotonic() + 10
    while len(running) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(running) == [1, 1, 2, 2]
    gate.set()
    for future in calls:
        future.result(10)
    for share in (first, second):
        share.shutdown()


def test_the_end_of_a_share_drops_its_calls_and_no_others():
    gate, begun = threading.Event(), threading.Event()
    first, second = start_share("ended", 1), start_share("ended", 1)
    runs = first.submit(lambda: (begun.set(), gate.wait(10)))
    assert begun.wait(10)
    dropped, kept = first.submit(abs, -1), second.submit(abs, -2)
    first.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        dropped.result(10)
    with pytest.raises(RuntimeError, match="shut down"):
        first.submit(abs, -3)
    gate.set()
    assert runs.result(10)
    assert kept.result(10) == 2
    second.shutdown()


def test_the_threads_end_with_the_last_share():
    shares = [start_share("last", 2) for _ in range(3)]
    for share in shares:
        share.submit(abs, -1).result(10)
    left = threads("last")
    assert left
    for share in shares:
        share.shutdown()
    for thread in left:
        thread.join(10)
    assert threads("last") == []


def test_each_call_may_have_a_thread_of_its_own():
    share = Share(start_thread)
    found = [share.submit(threading.get_ident) for _ in range(3)]
    first = threading.local()

    def once():
        assert not hasattr(first, "used")
        first.used = True

    for future in [*found, *(share.submit(once) for _ in range(20))]:
        future.result(10)
    share.shutdown()


def test_an_error_belongs_to_whoever_waits_for_the_call():
    with open_share("wrong", 1) as share:
        with pytest.raises(ZeroDivisionError):
            share.submit(divmod, 1, 0).result(10)
        assert share.submit(abs, -1).result(10) == 1


def test_a_share_may_end_while_another_begins_on_the_same_thread(monkeypatch):
    """As when garbage is collected in between: this was a deadlock."""
    ending, begun = start_share("ending", 1), []

    def collecting(name, size):
        ending.shutdown()
        return start_pool(name, size)

    monkeypatch.setattr(shared_pools, "start_pool", collecting)
    thread = threading.Thread(target=lambda: begun.append(start_share("beginning", 1)), daemon=True)
    thread.start()
    thread.join(10)
    assert begun
    assert not thread.is_alive()
    assert ("ending", 1) not in shared_pools._pools
    begun[0].shutdown()
    assert ("beginning", 1) not in shared_pools._pools
