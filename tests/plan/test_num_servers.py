"""Server ranks: how many there may be."""

import pytest

from pipar_rpc.base.ranks import World, worker_name
from tests.support.configuration import message, plan


def test_ranks_are_servers_first_and_then_devices():
    assert [worker_name(rank, 2) for rank in range(4)] == ["server", "server2", "device1", "device2"]
    assert [World(rank, 4, rank, 4, 2).device for rank in range(4)] == [None, None, 1, 2]


@pytest.mark.parametrize(
    ("size", "overrides", "line"),
    [
        (4, ["num_servers=0"], "num_servers=0: must be >= 1, the number of ranks that hold server halves"),
        (
            4,
            ["num_servers=3"],
            "num_servers=3: must be 1..1, the number of devices (torchrun started 4 ranks)",
        ),
        (
            *(3, ["num_servers=3"]),
            "num_servers=3: must be below the number of ranks (torchrun started 3 ranks, "
            "num_servers=3 and num_devices=3 need 6)",
        ),
        (
            *(5, ["num_servers=2", "strategy=sl"]),
            "num_servers=2: must be 1 where the devices share one server half (strategy=sl)",
        ),
        (
            *(5, ["num_servers=2", "strategy=sfl", "sfl.server=shared"]),
            "num_servers=2: must be 1 where the devices share one server half (strategy=sfl, sfl.server=",
        ),
    ],
)
def test_numbers_that_are_not_possible_are_one_line(size, overrides, line):
    assert message(*overrides, world_size=size).startswith(line)


def test_devices_are_the_ranks_that_are_no_servers():
    devices = plan("num_servers=2", world_size=5).devices
    assert [job.name for job in devices] == ["device1", "device2", "device3"]
    assert [job.server for job in devices] == ["server", "server", "server2"]
    assert plan(world_size=4).devices[2].server == "server"
