"""Whatever waits has a deadline, and says who waited for whom. Named after what once could hang."""

import os
import re
import signal
import time

import psutil
import pytest
import torch

from tests.support.overrides import SMALL
from tests.support.processes import end, survivors

# Long enough to be interrupted: 500 iterations of about 0.2 s over a slow emulated link.
LONG = (
    *(option for option in SMALL if not option.startswith(("network", "data.train_size"))),
    *("data.train_size=10000", "data.train_size_per_device=5000", "network=4g", "network.uplink_mbps=1"),
)


def started(processes, num_ranks, *overrides):
    """Ranks in the middle of an epoch."""
    ranks = processes.ranks(num_ranks, *LONG, *overrides)
    processes.wait_for("outputs/**/tensorboard/*")
    time.sleep(1)
    assert all(rank.poll() is None for rank in ranks)
    return ranks


def test_devices_end_when_the_server_is_killed(processes):
    server, *devices = started(processes, 3)
    server.send_signal(signal.SIGKILL)
    for rank, device in enumerate(devices, start=1):
        code, output = end(device)
        assert code == 1
        assert f"pipar_rpc: error: device{rank} lost the server: " in output


def test_devices_end_when_the_server_is_silent(processes):
    server, *devices = started(processes, 3, "node.timeout_s=8")
    server.send_signal(signal.SIGSTOP)
    for rank, device in enumerate(devices, start=1):
        code, output = end(device)
        assert code == 1
        assert f"pipar_rpc: error: device{rank} lost the server: " in output


def test_a_rank_that_never_comes_ends_the_wait_for_it(processes):
    server, device = processes.ranks(3, *SMALL, "node.timeout_s=5", only=(0, 1))
    for process in (server, device):
        code, output = end(process)
        assert code == 1
        assert re.search(r"rank \d \(\w+\) (waited 5 s for the other 2 ranks|could not join)", output), output


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["torchrun", "terminal"])
def test_one_interrupt_ends_all_ranks(processes, send):
    run = processes.start_torchrun(2, *LONG)
    processes.wait_for("outputs/*/*/tensorboard/*")
    time.sleep(1)
    send(run.pid, signal.SIGINT)
    _, output = end(run, timeout=25)  # torchrun itself would kill them after 30
    assert "pipar_rpc: interrupted" in output
    assert processes.left_over() == []


def test_no_rank_outlives_torchrun(processes):
    """Killed, it can end none of them. They once trained on, unseen, for all the epochs that were left."""
    run = processes.start_torchrun(2, *LONG, "checkpoint.every=1", "aggregation.every=1")
    (folder,) = {path.parent for path in [processes.wait_for("outputs/*/*/checkpoints/round_000002.pt")]}
    ranks = psutil.Process(run.pid).children()
    assert len(ranks) == 2
    run.kill()
    assert not survivors(ranks, timeout=60)
    _, output = end(run)
    assert f" ends: torchrun, process {run.pid}, is gone" in output
    # Whoever looks later may have lost the other first.
    assert output.count("pipar_rpc: error: ") >= 2, output
    last = max(folder.glob("round_*.pt"))
    assert torch.load(last)["round"] == int(last.stem.removeprefix("round_"))
