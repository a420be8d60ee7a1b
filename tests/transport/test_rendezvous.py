"""Ranks find each other in torchrun's store: at the start, and again after some of them were restarted."""

import time
from datetime import timedelta

import pytest
from torch.distributed import HashStore, TCPStore

from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.threads import open_pool
from pipar_rpc.transport.rendezvous import Meeting


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    return HashStore()


def rank(store, number, timeout_s=10.0):
    return Meeting(store, "run", number, timeout_s)


def form(store, pool):
    """A group of all ranks; returns the server."""
    attending = [pool.submit(rank(store, number).attend) for number in (1, 2, 3)]
    server = rank(store, 0)
    server.gather()
    assert [future.result(5) for future in attending] == [True] * 3
    return server


def test_all_who_come_are_in_one_generation(store):
    with open_pool("ranks", 4) as pool:
        devices = [rank(store, number) for number in (1, 2, 3)]
        attending = [pool.submit(device.attend) for device in devices]
        server = rank(store, 0)
        server.gather()
        assert [future.result(5) for future in attending] == [True] * 3
    assert {device._generation for device in (server, *devices)} == {1}
    assert not any(server.returned(number) for number in (1, 2, 3))


def test_a_device_that_dies_while_the_others_join_keeps_nobody_waiting(store):
    """They were once in two generations by turns, each waiting for the other."""
    with open_pool("ranks", 4) as pool:
        gathering = pool.submit(rank(store, 0).gather)
        time.sleep(0.5)
        others = [rank(store, number) for number in (2, 3)]
        attending = [pool.submit(other.attend) for other in others]
        dead = rank(store, 1)
        dead._generation = 1
        store.add(f"run/pipar_rpc/{dead._place(1)}", 1)  # it came, and died before the group was formed
        device = rank(store, 1)
        assert device.attend()
        assert [future.result(5) for future in attending] == [True, True]
        gathering.result(5)
    assert {member._generation for member in (device, *others)} == {2}


def test_after_a_restart_all_are_in_the_next_generation(store):
    with open_pool("ranks", 4) as pool:
        server = form(store, pool)
        back = pool.submit(rank(store, 2).attend)
        time.sleep(1)
        assert [server.returned(number) for number in (1, 2, 3)] == [False, True, False]
        assert not back.done()
        attending = [pool.submit(rank(store, number).attend) for number in (1, 3)]
        rank(store, 0).gather()  # the next server
        assert [future.result(5) for future in (back, *attending)] == [True] * 3


def test_who_comes_back_too_late_is_let_go(store):
    with open_pool("ranks", 4) as pool:
        server = form(store, pool)
        late = pool.submit(rank(store, 3).attend)
        server.end(lost_hosts=0)
        assert late.result(5) is False


def test_nobody_waits_for_ever(store):
    with pytest.raises(PeerError, match="rank 2 waited 1 s for the server"):
        rank(store, 2, timeout_s=1).attend()
    with pytest.raises(PeerError, match="the server waited 1 s for rank 1, 2, 3 to join"):
        rank(store, 0, timeout_s=1).gather()


def test_a_store_that_is_gone_is_told_in_one_line(monkeypatch):
    """torchrun's agent was killed: torch's errors of many lines came through."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    master = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meetings = [
        rank(TCPStore("127.0.0.1", master.port, timeout=timedelta(seconds=5)), number) for number in (0, 1)
    ]
    del master
    server, device = meetings
    calls = [
        server.gather,
        server.beat,
        lambda: server.returned(1),
        lambda: server.recall("folder"),
        device.attend,
    ]
    for call in calls:
        with pytest.raises(PeerError, match=r"^rank \d lost torchrun's store: [^\n]+$"):
            call()


def test_memory_outlives_the_server(store):
    assert rank(store, 0).recall("folder") is None
    rank(store, 0).remember("folder", "outputs/it's here")
    assert rank(store, 0).recall("folder") == "outputs/it's here"


def test_devices_wait_for_what_the_server_keeps(store):
    with open_pool("ranks", 1) as pool:
        waiting = pool.submit(rank(store, 1).expect, "node")
        rank(store, 0).remember("node", "{}")
        assert waiting.result(5) == "{}"
    with pytest.raises(PeerError, match="rank 2 waited 1 s for the server"):
        rank(store, 2, timeout_s=1).expect("folder")
