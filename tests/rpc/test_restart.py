"""torchrun --max-restarts: the training goes on by itself, and whoever was lost comes back."""

import re

import torch

from tests.support.overrides import BASE, merged
from tests.support.processes import child_of, run
from tests.support.results import assert_same, rows_of


def test_a_killed_server_goes_on_by_itself_and_equals_the_uninterrupted(processes):
    run(processes, *BASE, "hydra.run.dir=whole")
    torchrun = processes.start_torchrun(3, *BASE, options=("--max-restarts=2",))
    processes.wait_for("outputs/*/*/checkpoints/round_000006.pt")
    child_of(torchrun).kill()
    done = processes.finish(torchrun)
    assert done.code == 0, done.err
    (path,) = processes.directory.glob("outputs/*/*")
    assert "resumed from the end of round " in done.out
    assert_same(path, processes.directory / "whole")
    assert [row["epoch"] for row in rows_of(path)] == ["1", "2", "3"]
    assert (path / "pipar_rpc.log").read_text().count("epoch 3/3") == 1
    assert processes.left_over() == []


def test_a_lost_device_comes_back_with_a_torchrun_on_each_host(processes):
    """It is admitted at the end of a round, by forming the group anew from the checkpoint."""
    slow = merged(*BASE, "epochs=16", "network.uplink_mbps=0.5")  # so that there is time to come back
    hosts = processes.start_hosts(3, 2, *slow)
    processes.wait_for("outputs/*/*/checkpoints/round_000006.pt")
    child_of(hosts[2]).kill()
    ended = [processes.finish(host, timeout=200) for host in hosts]
    assert [done.code for done in ended] == [0, 0, 0], ended[0].err
    (path,) = processes.directory.glob("outputs/*/*")
    log = (path / "pipar_rpc.log").read_text()
    left = re.search(r"device2 leaves (in|after) round (\d+): lost device2", log)
    back = re.search(r"device2 came back: all ranks start again from the end of round (\d+)", log)
    assert left
    assert back
    assert int(back[1]) >= int(left[2])
    assert "waiting for the server to form a new group" in ended[2].err + ended[2].out
    rows = rows_of(path)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 17))
    assert (rows[-1]["devices_alive"], rows[-1]["devices_lost"]) == ("2", "")
    assert torch.load(path / "model.pt")


def test_a_host_that_is_gone_keeps_no_other_waiting(processes):
    """torchrun's agents would wait 300 s for each other, which is longer than this test does."""
    hosts = processes.start_hosts(3, 0, *BASE)
    processes.wait_for("outputs/*/*/checkpoints/round_000006.pt")
    child_of(hosts[2]).kill()
    lost = processes.finish(hosts[2], timeout=60)
    server = processes.finish(hosts[0], timeout=120)
    other = processes.finish(hosts[1], timeout=60)
    assert (server.code, other.code, lost.code) == (0, 0, 1)
