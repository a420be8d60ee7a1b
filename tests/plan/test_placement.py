"""Where devices are: more of them than ranks, evenly or as the user says."""

from pathlib import Path

import pytest
import torch

from pipar_rpc.base.ranks import WORKER, World, workers_of
from pipar_rpc.plan.device_job import Placement
from pipar_rpc.plan.node import Node
from tests.support.configuration import message, plan


def ranks(*overrides, world_size):
    return [job.placed.rank for job in plan(*overrides, world_size=world_size).devices]


def test_devices_are_spread_evenly_and_neighbours_are_together():
    assert ranks(world_size=4) == [1, 2, 3]
    assert ranks("num_devices=2", world_size=4) == [1, 2]
    assert ranks("num_devices=7", world_size=4) == [1, 1, 1, 2, 2, 3, 3]
    assert ranks("num_devices=4", "num_servers=2", world_size=4) == [2, 2, 3, 3]
    held = workers_of(64, 4)
    assert [held.count(worker) for worker in range(4)] == [16] * 4
    assert held == sorted(held)


def test_a_list_says_how_many_devices_each_rank_holds():
    each = "placement.devices_per_rank=[1,0,3]"
    assert ranks(each, world_size=4) == ranks(each, "num_devices=4", world_size=5) == [1, 3, 3, 3]


def test_a_device_knows_how_many_share_its_process_and_how_many_may_train_at_a_time():
    found = [job.placed for job in plan("num_devices=5", world_size=3).devices]
    assert [place.devices for place in found] == [3, 3, 3, 2, 2]
    assert [place.first for place in found] == [True, False, False, True, False]
    assert [place.at_once for place in found] == [3, 3, 3, 2, 2]
    chosen = plan("num_devices=5", "participation.per_round=2", world_size=2).devices
    assert chosen[4].placed == Placement(rank=1, devices=5, first=False, at_once=2)


def test_each_device_of_a_rank_may_have_a_data_root_of_its_own():
    cpu = torch.device("cpu")
    node = Node(Path("/data/1"), "/data/{device}", False, cpu)
    assert node.of_device(3).data_root == Path("/data/3")
    assert node.of_device(3).of_device(1) == node
    shared = Node(Path("/data"), "/data", False, cpu)
    assert shared.of_device(3) == shared


def test_names_of_devices_and_of_ranks():
    jobs = plan("num_devices=4", world_size=3).devices
    assert [job.name for job in jobs] == ["device1", "device2", "device3", "device4"]
    assert World(2, 4, 2, 4, 2).names == ["server", "server2", "device1", "device2"]
    assert World(3, 4, 3, 4, 1, WORKER).name == "worker3"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["placement.devices_per_rank=[2,2]", "num_devices=5"],
            "placement.devices_per_rank=[2, 2]: must be numbers that add up to num_devices=5",
        ),
        (
            ["placement.devices_per_rank=[1,1,1]"],
            "placement.devices_per_rank=[1, 1, 1]: must be at most 2 numbers (torchrun started 3 ranks, ",
        ),
        (
            ["placement.devices_per_rank=[0,0]"],
            "placement.devices_per_rank=[0, 0]: must be numbers of devices, not all 0, or null for evenly",
        ),
        (["placement.devices_per_rank=[3,-1]"], "placement.devices_per_rank=[3, -1]: must be numbers of"),
        (["placement.devices_per_rank=[]"], "placement.devices_per_rank=[]: must be numbers of devices"),
        (["num_devices=2", "num_servers=3"], "num_servers=3: must be below the number of ranks"),
    ],
)
def test_what_cannot_be_is_one_line(overrides, line):
    assert message(*overrides, world_size=3).startswith(line)
