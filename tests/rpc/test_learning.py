"""Learning over RPC against plain loops in double precision: what is minimised, how, and who takes part."""

import copy
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from pipar_rpc.compression.models import ExactModel, Int8Model
from tests.support.loops import assert_close
from tests.support.overrides import SMALL, merged, sweep_of
from tests.support.references import (
    BATCH_SIZES,
    SAMPLES,
    all_batches,
    fedavg,
    initial_network,
    server_adam,
)
from tests.support.results import job_dirs, rows_of

EPOCHS = 3  # one round each
ADAMW = ("optimizer.name=adamw", "optimizer.momentum=0", "optimizer.weight_decay=0.1", "optimizer.lr=0.003")
SMOOTH = ("loss.args.label_smoothing=0.1",)
COSINE = (
    *("schedule.name=cosine", "schedule.args.T_max=7", "schedule.args.eta_min=0.001"),
    "schedule.every=iteration",
)
FEDADAM = ("aggregation.rule.name=fedadam", "aggregation.rule.args.eta=0.05")
HALF = ("participation.per_round=1",)
WHOLE = ("pipeline.split_point=2", "pipeline.num_micro_batches=3")


@dataclass
class Job:
    """A job, and what its plain loop needs to know."""

    options: tuple[str, ...]
    strategy: str = "pipar"
    half: bool = False
    fedadam: bool = False
    adamw: bool = True
    int8: bool = False
    mu: float = 0.0


JOBS = {
    "everything": Job((*WHOLE, *ADAMW, *SMOOTH, *COSINE, *FEDADAM, *HALF), half=True, fedadam=True),
    "fl": Job((*SMOOTH, *COSINE, *ADAMW, *HALF), "fl", half=True),
    "sl": Job((*SMOOTH, *COSINE, *ADAMW, *HALF, "pipeline.split_point=2"), "sl", half=True),
    "shared": Job(
        (*SMOOTH, *COSINE, *ADAMW, *HALF, "sfl.server=shared", "pipeline.split_point=2"), "sfl", half=True
    ),
    "int8": Job(
        (*WHOLE, *SMOOTH, *COSINE, *ADAMW, *HALF, "compression.models.name=int8"), half=True, int8=True
    ),
    "fedprox": Job((*WHOLE, *SMOOTH, *COSINE, "aggregation.fedprox_mu=0.5"), adamw=False, mu=0.5),
}
CHOSEN = [(1,), (0,), (1,)]  # by the random choice of seed 0


@pytest.fixture(scope="module")
def jobs(module_processes):
    own = {
        f"{number:02}": (
            *("model=vgg5", "model.norm=group", f"strategy={job.strategy}"),
            *job.options,
        )
        for number, job in enumerate(JOBS.values())
    }
    overrides = merged(*SMALL, f"epochs={EPOCHS}", f"devices.overrides.2.batch_size={BATCH_SIZES[1]}")
    arguments = [*sweep_of(module_processes.directory, own), *overrides]
    done = module_processes.torchrun(3, *arguments, module="tests.support.float64_main", timeout=200)
    assert done.code == 0, done.err
    return dict(zip(JOBS, (path for _, path in sorted(job_dirs(module_processes).items())), strict=True))


class Plain:
    """A network, its optimiser and schedule, on one device."""

    def __init__(self, job, network):
        self.job, self.network = job, network
        sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
        adamw = partial(torch.optim.AdamW, lr=0.003, weight_decay=0.1)
        make = adamw if job.adamw else sgd
        self.optimizers = [make(network[:2].parameters()), make(network[2:].parameters())]
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.rates = rates(0.003 if job.adamw else 0.01)

    def step(self, batches, epoch, iteration, origin):
        images, labels = batches.get(epoch, iteration)
        self.network.zero_grad()
        self.loss(self.network(images), labels).backward()
        for name, weight in self.network.named_parameters():
            weight.grad += self.job.mu * (weight.detach() - origin[name])
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.rates[(epoch - 1) * len(batches) + iteration]
            optimizer.step()


def rates(lr):
    """Those that torch's scheduler gives, for every step that a device may have."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule, found = lr_scheduler.CosineAnnealingLR(optimizer, 7, 0.001), []
    for _ in range(EPOCHS * 5):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


def train_averaged(job):
    network, batches = initial_network(), all_batches()
    codec = Int8Model() if job.int8 else ExactModel()
    rule = (server_adam(0.05, 0.9, 0.99, 1e-3) if job.fedadam else fedavg)(network)
    devices = [Plain(job, copy.deepcopy(network)) for _ in BATCH_SIZES]
    if job.strategy == "sfl":  # one server half, which follows the averages as the device halves do
        devices = [Plain(job, nn.Sequential(*copy.deepcopy(network[:2]), *network[2:])) for _ in BATCH_SIZES]
        devices[1].optimizers[1] = devices[0].optimizers[1]
    held, names = copied(devices[0].network.state_dict()), list(devices[0].network[:2].state_dict())
    for epoch in range(1, EPOCHS + 1):
        chosen, states = CHOSEN[epoch - 1] if job.half else (0, 1), []
        for index in chosen:
            devices[index].network.load_state_dict(held)
            for iteration in range(len(batches[index])):
                devices[index].step(batches[index], epoch, iteration, held)
            state = copied(devices[index].network.state_dict())
            half = {name: state[name] for name in names}
            states.append(state | codec.decode(codec.encode(half, held), held))
        average = rule(states, [SAMPLES] * len(states))
        half = {name: average[name] for name in names}
        held = average | codec.decode(codec.encode(half, held), held)
    return dict(zip(network.state_dict(), held.values(), strict=True))


def train_in_turn(job):
    network, batches = initial_network(), all_batches()
    devices = [Plain(job, network), Plain(job, network)]
    devices[1].optimizers[1] = devices[0].optimizers[1]
    for epoch in range(1, EPOCHS + 1):
        for index in CHOSEN[epoch - 1]:
            for iteration in range(len(batches[index])):
                devices[index].step(batches[index], epoch, iteration, dict(network.named_parameters()))
    return network.state_dict()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", JOBS)
def test_training_equals_a_plain_loop(jobs, name):
    job = JOBS[name]
    reference = train_in_turn(job) if job.strategy == "sl" else train_averaged(job)
    assert_close(torch.load(jobs[name] / "model.pt"), reference, 1e-9)


def test_who_trained_and_at_what_rate_is_in_the_results(jobs):
    rows = rows_of(jobs["everything"])
    assert {row["devices_trained"] for row in rows} == {"1"}
    lengths = [-(-SAMPLES // size) for size in BATCH_SIZES]
    for epoch, (row, (device,)) in enumerate(zip(rows, CHOSEN, strict=True), start=1):
        last = epoch * lengths[device] - 1
        assert float(row["learning_rate"]) == pytest.approx(rates(0.003)[last], rel=1e-5)
    assert {(row["optimizer"], row["schedule"], row["loss"]) for row in rows} == {
        ("adamw", "cosine", "cross_entropy")
    }


def test_who_sits_out_gets_nothing(jobs):
    """One of two devices trains: half of the models cross, up and down."""
    model = int(rows_of(jobs["fedprox"])[0]["model_bytes"]) // 2
    for row in rows_of(jobs["everything"]):
        assert int(row["model_bytes"]) == model
