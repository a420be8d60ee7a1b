"""Server halves on several server ranks, and devices that share a rank: bit for bit, the results are those
of one server rank and a rank for each device.
"""

import json
import signal

import pytest

from tests.support.overrides import BASE, merged, sweep_of
from tests.support.processes import PATIENCE_S, end
from tests.support.results import assert_same, rows_of

JOBS = {  # codecs, optimisers with a state, rules that need the average or all networks, other cuts
    "pipar": (
        *("optimizer.name=adamw", "optimizer.momentum=0", "devices.overrides.3.pipeline.split_point=2"),
        *("aggregation.rule.name=fedyogi", "timeline.epochs=1", "participation.per_round=2"),
    ),
    "sfl": (
        *("strategy=sfl", "aggregation.rule.name=trimmed_mean", "aggregation.rule.args.ratio=0.34"),
        *("compression.activations.name=int8", "compression.gradients.name=int8", "pipeline.labels=device"),
        "enable_device_val=true",
    ),
    "private": ("model.norm=group", "privacy.dpsgd.noise_multiplier=1", "fault.leave.3=3"),
}
WITHOUT_PICTURES = "tests.support.without_pictures"
SAME = ("loss", "accuracy", "bytes", "clipped", "devices_", "iterations")
GOES_ON = merged(*BASE, "epochs=3", "aggregation.every=1", "network.uplink_mbps=0.5")


@pytest.fixture(scope="module")
def jobs(module_processes):
    """The same jobs of three devices, first with one server rank, then with two server ranks and two others.

    Returns folders by the number of server ranks and the job.
    """
    base = merged(*BASE, "epochs=1", "network.uplink_mbps=1000")
    sweep = sweep_of(module_processes.directory, {name: merged(*base, *own) for name, own in JOBS.items()})
    where = {}
    for number in (1, 2):
        more = (f"num_servers={number}", f"hydra.sweep.dir=outputs/{number}/of_multirun", "data=synthetic")
        done = module_processes.training(4, *more, "num_devices=3", *sweep)
        assert done.code == 0, done.err
        found = module_processes.directory.glob(f"outputs/{number}/of_multirun/*_*_*")
        where |= {(number, name): path for name, path in zip(JOBS, sorted(found), strict=True)}
    return where


@pytest.mark.parametrize("name", JOBS)
def test_results_depend_neither_on_the_number_of_server_ranks_nor_on_who_shares_one(jobs, name):
    one, two = jobs[1, name], jobs[2, name]
    assert_same(one, two)
    for first, second in zip(rows_of(one), rows_of(two), strict=True):
        same = {key for key in first if any(word in key for word in SAME)} - {"device_peak_rss_mb"}
        assert {key: first[key] for key in same} == {key: second[key] for key in same}
        assert 0 < float(second["server_idle_s"]) < float(second["epoch_time_s"])


def test_the_timeline_has_the_spans_of_all_server_ranks(jobs):
    def spans(number):  # without the average, whose parts are added before the rule's step
        events = json.loads((jobs[number, "pipar"] / "trace.json").read_text())["traceEvents"]
        measured = [e for e in events if e["ph"] == "X" and e["name"] != "aggregate"]
        return sorted((e["pid"], e["tid"], e["name"]) for e in measured)

    assert spans(2) == spans(1)


@pytest.mark.parametrize(("saved", "number"), [(2, 1), (1, 2)])
def test_a_training_goes_on_with_other_ranks(processes, jobs, saved, number):
    own = merged(*BASE, "epochs=1", "network.uplink_mbps=1000", *JOBS["pipar"], f"num_servers={number}")
    each = "placement.devices_per_rank=[1,1,1]" if number == 1 else "placement.devices_per_rank=[1,2]"
    resume = f"resume={jobs[saved, 'pipar']}/checkpoints/round_000003.pt"
    done = processes.training(4, *own, each, resume, "hydra.run.dir=resumed", module=WITHOUT_PICTURES)
    assert done.code == 0, done.err
    assert_same(processes.directory / "resumed", jobs[1, "pipar"])


def test_the_devices_of_a_lost_rank_leave_and_no_others(processes):
    """Its server rank goes on, as do the devices of the other rank."""
    shared = ("num_servers=2", "num_devices=4", "fault.min_devices=2")
    ranks = processes.ranks(4, *GOES_ON, *shared, module=WITHOUT_PICTURES)
    processes.wait_for("outputs/*/*/checkpoints/round_000002.pt")
    ranks[3].send_signal(signal.SIGKILL)
    code, output = end(ranks[0])
    assert code == 0, output
    assert [rank.wait(PATIENCE_S) for rank in ranks[1:3]] == [0, 0]
    (path,) = processes.directory.glob("outputs/*/*")
    rows = rows_of(path)
    assert (rows[-1]["devices_alive"], rows[-1]["devices_lost"]) == ("2", "3;4")
    assert output.count("device3 to device4 leave ") == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_server_rank_ends_the_job_with_one_line(processes, number):
    impatient = ("fault.deadline_factor=3", "fault.min_deadline_s=3")
    ranks = processes.ranks(5, *GOES_ON, "num_servers=2", "epochs=50", *impatient, module=WITHOUT_PICTURES)
    processes.wait_for("outputs/*/*/checkpoints/round_000002.pt")
    ranks[1].send_signal(number)
    code, output = end(ranks[0])
    assert code == 1
    (line,) = [line for line in output.splitlines() if "[ERROR] pipar_rpc: error" in line]
    assert "lost server2" in line
    assert "it holds server halves, without which the training cannot go on" in line
    ranks[1].send_signal(signal.SIGKILL)
    for rank in ranks[2:]:
        rank.wait(PATIENCE_S)
    (path,) = processes.directory.glob("outputs/*/*")
    assert list((path / "checkpoints").glob("*.pt"))
