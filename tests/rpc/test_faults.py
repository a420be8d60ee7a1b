"""Devices that die, stop, diverge or are told to leave: the others go on, as if it had been planned."""

import re
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.overrides import SMALL, merged, sweep_of
from tests.support.processes import PATIENCE_S, end
from tests.support.results import assert_same, job_dirs, rows_of

DATA = (
    *(o for o in SMALL if not o.startswith(("epochs", "network", "data.train_size="))),
    "data.train_size=300",
)
BASE = (
    *("epochs=3", "aggregation.every=1", "pipeline.num_micro_batches=3"),
    *("devices.overrides.1.batch_size=4", "network.uplink_mbps=0.5"),
)
JOBS = {
    "fl": ("strategy=fl", "network.uplink_mbps=10"),
    "sl": ("strategy=sl",),
    "pipar": ("strategy=pipar",),
    "labels": ("strategy=pipar", "pipeline.labels=device"),
}
ROUNDS = (3, 4, 5)  # in which a device may be lost that is killed after the second
# Images divided by next to nothing: infinite activations on one device, and a loss that is not a number.
DIVERGING = ("devices.overrides.2.data.std=[1e-42,1e-42,1e-42]",)
INT8 = tuple(f"compression.{what}.name=int8" for what in ("activations", "gradients", "models"))
DIVERGE = {
    **JOBS,  # with batch norm, whose running statistics see the activations before the loss does
    "sfl": ("strategy=sfl",),
    "shared": ("strategy=sfl", "sfl.server=shared"),
    "labels_shared": ("strategy=sfl", "sfl.server=shared", "pipeline.labels=device"),
    "merged": ("strategy=pipar", "server.half=merged"),
    "int8": ("strategy=pipar", *INT8),
}
WITHOUT_PICTURES = "tests.support.without_pictures"
IMPATIENT = ("fault.deadline_factor=3", "fault.min_deadline_s=3")


@pytest.fixture(scope="module")
def planned(module_processes):
    """Devices that leave on purpose, and devices that diverge: all jobs in one torchrun, over fast links."""
    jobs = {
        f"{name}_{number}": merged(*BASE, *own, "network.uplink_mbps=100", f"fault.leave.2={number}")
        for name, own in JOBS.items()
        for number in ROUNDS
    }
    for name, own in DIVERGE.items():
        fast = merged(*BASE, *own, *DIVERGING, "network.uplink_mbps=100", "epochs=1")
        jobs |= {f"{name}_diverging": fast, f"{name}_leaving": (*fast, "fault.leave.2=1")}
    sweep = sweep_of(module_processes.directory, jobs)
    done = module_processes.training(4, *DATA, "network=none", *sweep, module=WITHOUT_PICTURES)
    assert done.code == 0, done.err
    return dict(zip(jobs, (path for _, path in sorted(job_dirs(module_processes).items())), strict=True))


def log_of(path):
    return (path / "pipar_rpc.log").read_text()


def interrupt(processes, number, *overrides):
    """Sends a signal to device 2 of three after the second round; the job ends well and says when it left."""
    command = (*DATA, "network=none", *merged(*BASE, *overrides))
    server, first, second, third = processes.ranks(4, *command, module=WITHOUT_PICTURES)
    processes.wait_for("outputs/*/*/checkpoints/round_000002.pt")
    second.send_signal(number)
    code, output = end(server)
    assert code == 0, output
    second.kill()
    for device in (first, second, third):
        device.wait(PATIENCE_S)
    assert (first.returncode, third.returncode) == (0, 0)
    (path,) = processes.directory.glob("outputs/*/*")
    found = re.search(
        r"WARNING\] device2 leaves (in|after) round (\d+): (.+); 2 of 3 devices left", log_of(path)
    )
    assert found, log_of(path)
    return path, int(found[2]) + (found[1] == "after"), found[3]


@pytest.mark.parametrize("name", JOBS)
def test_a_killed_device_is_one_that_was_told_to_leave(processes, planned, name):
    path, number, reason = interrupt(processes, signal.SIGKILL, *JOBS[name])
    assert reason.startswith("lost device2: ")
    told = planned[f"{name}_{number}"]
    line = f"device2 leaves in round {number}: as fault.leave says; 2 of 3 devices left"
    assert line in log_of(told)
    assert_same(path, told)
    rows = rows_of(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert (rows[-1]["devices_alive"], rows[-1]["devices_lost"]) == ("2", "2")
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    assert events.Scalars("devices/alive")[-1].value == 2
    (event,) = events.Tensors("devices/events/text_summary")
    assert b"device2 leaves" in event.tensor_proto.string_val[0]


def test_a_stopped_device_leaves_at_its_deadline_not_at_the_ceiling(processes, planned):
    path, number, reason = interrupt(processes, signal.SIGSTOP, *JOBS["sl"], *IMPATIENT)
    assert re.match(
        r"the server waited \d+ s for device2, (last heard of in iteration \d|asked to \w+)", reason
    )
    assert_same(path, planned[f"sl_{number}"])


def test_a_device_that_is_silent_when_first_asked_something_short_is_not_waited_for_long(processes):
    """Not for fault.timeout_s, as for work of which nobody knows how long it takes."""
    command = (*DATA, "network=none", *merged(*BASE, *JOBS["pipar"], *IMPATIENT))
    server, first, second, third = processes.ranks(4, *command, module="tests.support.silent_main")
    code, output = end(server)
    second.kill()
    assert code == 0, output
    for device in (first, second, third):
        device.wait(PATIENCE_S)
    (path,) = processes.directory.glob("outputs/*/*")
    waited = r"device2 leaves after round \d+: the server waited \d s for device2, asked to drain_traffic"
    assert re.search(waited, log_of(path)), log_of(path)


@pytest.mark.parametrize("name", DIVERGE)
def test_a_device_whose_loss_is_not_finite_leaves_without_an_update(planned, name):
    path = planned[f"{name}_diverging"]
    what = "(the loss is nan|the activation is not finite)"
    line = rf"device2 leaves in round 1: .*{what} in epoch 1, iteration 0, micro-batch 1/\d"
    assert re.search(line, log_of(path)), log_of(path)
    assert_same(path, planned[f"{name}_leaving"])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in torch.load(path / "model.pt").values())


def test_with_one_shared_server_half_the_others_do_not_wait_for_the_turn_of_the_lost(processes):
    """And the other jobs of a sweep do not go on with fewer devices than they are to have."""
    shared = merged(*BASE, "strategy=sfl", "sfl.server=shared")
    server, lost, *others = processes.ranks(3, *DATA, "network=none", *shared, "--multirun", "seed=0,1")
    processes.wait_for("outputs/*/*/0_*/checkpoints/round_000002.pt")
    lost.kill()
    code, output = end(server)
    assert code == 1
    assert "1 jobs done, 1 failed" in output
    assert "error: lost device1 in an earlier job" in output
    assert "Traceback" not in output
    assert [other.wait(PATIENCE_S) for other in others] == [
        1
    ]  # as the server: torchrun is to start all again or none
    path, _ = (path for _, path in sorted(job_dirs(processes).items()))
    assert rows_of(path)[-1]["devices_lost"] == "1"


@pytest.fixture(scope="module")
def hopeless(module_processes):
    """Jobs that fail, because too few devices are left or lack a codec; those after them have all again."""
    codec = "compression.activations._target_=tests.support.codecs_of_rank_0.Exact"
    jobs = {
        "few": merged(*BASE, "fault.leave.1=2", "fault.min_devices=2"),
        "lacking": merged(*BASE, "compression.activations.name=custom", codec),
        "none": merged(*BASE, *INT8, "optimizer.lr=1e30", "model.norm=none"),
    }
    (directory := module_processes.directory / "hopeless").mkdir()
    sweep = (*sweep_of(directory, jobs), "hydra.sweep.dir=hopeless/jobs")
    done = module_processes.training(3, *DATA, "network=none", *sweep, module=WITHOUT_PICTURES)
    assert done.code == 1
    return done, *sorted(path for path in (directory / "jobs").iterdir() if path.is_dir())


def test_too_few_devices_end_the_job(hopeless):
    done, path, *_ = hopeless
    line = "error: 1 of 2 devices left, fault.min_devices=2; the last to leave: device1: as fault.leave says"
    assert line in done.out
    assert (path / "checkpoints" / "round_000001.pt").exists()


def test_a_codec_that_only_the_server_has_is_missed_by_a_device(hopeless):
    done, *_ = hopeless
    line = r"error: device\d: compression\.activations\._target_=tests\.support\.codecs_of_rank_0\.Exact: "
    assert re.search(line + "must be the dotted name .* that this machine can import", done.out)


def test_when_all_diverge_the_job_ends_and_the_checkpoint_stays(hopeless):
    done, *_, path = hopeless
    assert re.search(r"error: 0 of 2 devices left.*: .*(the loss is|its weights are)", done.out)
    saved = [*path.glob("checkpoints/*.pt")]
    assert saved
    for file in saved:
        (network,) = torch.load(file)["networks"]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in network.values())
