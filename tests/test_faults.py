"""Devices that die, stop, diverge or are told to leave: the others go on, as if it had been planned."""

import copy
import math
import re
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from pipar_rpc.errors import LostError
from pipar_rpc.microbatch import Part
from pipar_rpc.models import DropoutStreams
from pipar_rpc.seeds import generator
from pipar_rpc.server import ServerHalf
from pipar_rpc.timeline import Timeline

from .conftest import SMALL, sweep_of
from .test_no_hang import end
from .test_resume import assert_same
from .test_rpc import job_dirs, rows_of

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
}
ROUNDS = (3, 4, 5)  # in which a device may be lost that is killed after the second
# Images divided by next to nothing: infinite activations on one device, and a loss that is not a number.
DIVERGING = ("devices.overrides.2.data.std=[1e-42,1e-42,1e-42]",)
DIVERGE = {
    **JOBS,  # with batch norm, whose running statistics see the activations before the loss does
    "sfl": ("strategy=sfl",),
    "shared": ("strategy=sfl", "sfl.server=shared"),
}
IMPATIENT = ("fault.deadline_factor=3", "fault.min_deadline_s=3")


def merged(*overrides):
    """Without those that later ones replace."""
    return tuple(f"{k}={v}" for k, v in dict(option.split("=", 1) for option in overrides).items())


@pytest.fixture(scope="module")
def planned(module_processes):
    """Devices that leave on purpose, and devices that diverge: all jobs in one torchrun, over fast links."""
    jobs = {
        f"{name}_{number}": merged(*BASE, *own, "network.uplink_mbps=100", f"fault.leave.2={number}")
        for name, own in JOBS.items()
        for number in ROUNDS
    }
    for name, own in DIVERGE.items():
        fast = merged(*BASE, *own, *DIVERGING, "network.uplink_mbps=100")
        jobs |= {f"{name}_diverging": fast, f"{name}_leaving": (*fast, "fault.leave.2=1")}
    sweep = sweep_of(module_processes.directory, jobs)
    done = module_processes.torchrun(4, *DATA, "network=none", *sweep, timeout=300)
    assert done.code == 0, done.err
    return dict(zip(jobs, (path for _, path in sorted(job_dirs(module_processes).items())), strict=True))


def log_of(path):
    return (path / "pipar_rpc.log").read_text()


def interrupt(processes, number, *overrides):
    """Sends a signal to device 2 of three after the second round; the job ends well and says when it left."""
    server, first, second, third = processes.ranks(4, *DATA, "network=none", *merged(*BASE, *overrides))
    processes.wait_for("outputs/*/*/checkpoints/round_000002.pt")
    second.send_signal(number)
    code, output = end(server)
    assert code == 0, output
    second.kill()
    for device in (first, second, third):
        device.wait(20)
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


@pytest.mark.parametrize("name", DIVERGE)
def test_a_device_whose_loss_is_not_finite_leaves_without_an_update(planned, name):
    path = planned[f"{name}_diverging"]
    line = r"device2 leaves in round 1: .*the loss is nan in epoch 1, iteration 0, micro-batch 1/\d"
    assert re.search(line, log_of(path)), log_of(path)
    assert_same(path, planned[f"{name}_leaving"])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in torch.load(path / "model.pt").values())


class Root(nn.Module):
    """Infinitely steep at zero; with a buffer that is infinite on purpose, as masks are."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)
        self.register_buffer("mask", torch.full((4,), -math.inf))

    def forward(self, x):
        return self.linear(x).abs().sqrt()


@pytest.mark.parametrize(
    ("layers", "scale", "reason"),
    [
        ([nn.BatchNorm1d(4), nn.Linear(4, 2)], math.inf, "the loss is nan"),
        ([nn.BatchNorm1d(4), nn.Linear(4, 2)], 1e30, "a gradient or a running statistic is not finite"),
        (
            [nn.Linear(4, 4, bias=False), Root(), nn.Linear(4, 2)],
            0.0,
            "a gradient or a running statistic is not finite",
        ),
    ],
    ids=["loss", "statistics", "gradient"],
)
def test_a_half_is_as_before_the_mini_batch_that_diverged(layers, scale, reason):
    """Whether seen by the loss or not: with a shared half, all the others once left as well."""
    half = server_half(*layers)
    train(half, 1, 1.0)
    state, momentum = copy.deepcopy(half.snapshot())
    with pytest.raises(LostError, match=f"{reason} in epoch 1, iteration 2, micro-batch 2/2"):
        train(half, 2, 1.0, scale)
    after, velocity = half.snapshot()
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert all(torch.equal(velocity[name], momentum[name]) for name in momentum)
    again = server_half(*copy.deepcopy(layers))
    again.restore((state, momentum))
    for one in (half, again):
        train(one, 3, 2.0)
    assert all(torch.equal(half.state()[name], again.state()[name]) for name in state)


def server_half(*layers):
    layers = nn.Sequential(*layers)
    streams = DropoutStreams(layers, seed=0, device=1)
    return ServerHalf(layers, {"lr": 0.1, "momentum": 0.9}, streams, torch.device("cpu"), Timeline())


def train(half, iteration, *scales):
    """A mini-batch with a micro-batch for each scale of the activations."""
    rng = generator(0, "test", iteration)
    for index, scale in enumerate(scales, start=1):
        part = Part(1, iteration, index, len(scales), 1 / len(scales))
        activation = torch.randn(6, 4, generator=rng) * scale
        half.process(part, activation, torch.arange(6) % 2, lambda result: None)


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
    assert [other.wait(20) for other in others] == [
        1
    ]  # as the server: torchrun is to start all again or none
    path, _ = (path for _, path in sorted(job_dirs(processes).items()))
    assert rows_of(path)[-1]["devices_lost"] == "1"


def test_too_few_devices_end_the_job(processes):
    done = processes.torchrun(3, *DATA, "network=none", *BASE, "fault.leave.1=2", "fault.min_devices=2")
    assert done.code == 1
    line = "error: 1 of 2 devices left, fault.min_devices=2; the last to leave: device1: as fault.leave says"
    assert line in done.out
    (path,) = processes.directory.glob("outputs/*/*")
    assert (path / "checkpoints" / "round_000001.pt").exists()


def test_when_all_diverge_the_job_ends_and_the_checkpoint_stays(processes):
    done = processes.torchrun(3, *DATA, "network=none", *BASE, "optimizer.lr=1e30", "model.norm=none")
    assert done.code == 1
    assert re.search(r"error: 0 of 2 devices left.*: .*(the loss is|its weights are)", done.out)
    for path in processes.directory.glob("outputs/*/*/checkpoints/*.pt"):
        (network,) = torch.load(path)["networks"]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in network.values())
        break
    else:
        pytest.fail("no checkpoint")
