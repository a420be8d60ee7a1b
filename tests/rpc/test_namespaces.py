"""Several hosts: one torchrun per network namespace, links shaped by the kernel. Needs root and iproute2."""

import re
import signal
import subprocess
import sys
import time

import pytest

from launch import netns
from tests.support.namespaces import needs_namespaces, own_namespaces, start
from tests.support.overrides import SMALL
from tests.support.processes import free_port, wait_until
from tests.support.results import rows_of


@needs_namespaces
def test_a_host_that_drops_off_the_network_leaves_the_training(processes):
    """No connection is closed: only silence tells."""
    fault = ("fault.deadline_factor=3", "fault.min_deadline_s=3", "node.timeout_s=20", "hydra.run.dir=job")
    rounds = ("aggregation.every=1", "epochs=20", "batch_size=10", "data.train_size=300")
    small = [
        option for option in SMALL[:-1] if not option.startswith(("epochs", "batch", "data.train_size="))
    ]
    run = start(processes, "--devices=2", "--network=wifi", "--keep-going", "--", *small, *rounds, *fault)
    processes.wait_for("job/checkpoints/round_00000[3-9].pt")
    subprocess.run(["ip", "-n", f"pipar-{run.pid}-2", "link", "set", "eth0", "down"], check=True)
    done = processes.finish(run, timeout=200)
    assert done.code == 0, done.err
    log = (processes.directory / "job" / "pipar_rpc.log").read_text()
    assert re.search(r"device2 leaves (in|after) round \d+: the server waited \d+ s for device2", log), log
    rows = rows_of(processes.directory / "job")
    assert (len(rows), rows[-1]["devices_lost"]) == (20, "2")
    assert own_namespaces(run.pid) == []


@needs_namespaces
def test_an_interrupted_run_leaves_no_namespace_and_no_process(processes):
    run = start(processes, "--devices=1", "--network=4g", "--", "data=synthetic", f"seed={free_port()}")
    wait_until(lambda: len(own_namespaces(run.pid)) == 3)
    time.sleep(3)
    run.send_signal(signal.SIGINT)
    processes.finish(run, timeout=200)
    assert own_namespaces(run.pid) == []
    assert processes.left_over() == []


@needs_namespaces
def test_what_a_killed_run_left_is_removed_by_the_next(processes):
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    pid = int(gone.stdout)
    subprocess.run(["ip", "netns", "add", f"pipar-{pid}-1"], check=True)
    run = start(processes, "--devices=1", "--", "pipeline.split_point=9")
    done = processes.finish(run, timeout=200)
    assert done.code != 0
    assert "pipeline.split_point=9: must be 1..5" in done.err
    assert own_namespaces(pid) == []
    assert own_namespaces(run.pid) == []


@needs_namespaces
def test_the_rates_of_real_links_are_told_by_their_traffic(processes):
    """The selector's rates follow the uplink, which falls from 50 to 10 Mbit/s. (Headers are 4.6 %.)"""
    images = ("data=synthetic", "data.train_size=200", "data.train_size_per_device=200", "data.val_size=10")
    options = (*images, "data.test_size=20", "batch_size=50", "epochs=6", "hydra.run.dir=job")
    selector = ("selector.profile_iterations=1", "selector.split_points=[1]", "selector.min_gain=0")
    run = start(processes, "--devices=1", "--network=wifi", "--", *options, *selector)
    processes.wait_for("job/checkpoints/round_000002.pt")
    uplink = ("qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", "10mbit", *netns.TBF)
    subprocess.run(["tc", "-n", f"pipar-{run.pid}-1", *uplink], check=True)
    done = processes.finish(run, timeout=200)
    assert done.code == 0, done.err
    rates = [float(row["link_uplink_mbps"]) for row in rows_of(processes.directory / "job")]
    assert rates[0] == pytest.approx(47.7, rel=0.1)  # timed transfers
    assert rates[1] == pytest.approx(47.7, rel=0.3)
    assert rates[-1] == pytest.approx(9.5, rel=0.15)
