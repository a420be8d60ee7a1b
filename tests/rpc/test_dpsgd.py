"""DP-SGD over RPC against loops over single samples in double precision: strategies, sampling, budget."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from tests.support import references
from tests.support.dpsgd import SingleSamples
from tests.support.loops import assert_close
from tests.support.overrides import SMALL, merged, sweep_of
from tests.support.results import job_dirs, rows_of

EPOCHS, NORM, NOISE = 2, 0.5, (0.3, 0.6)
POISSON = (1, 4)  # batch sizes: empty mini-batches are many
WHOLE = ("pipeline.split_point=2", "pipeline.num_micro_batches=3")
ON = (
    *(f"privacy.dpsgd.max_grad_norm={NORM}", f"privacy.dpsgd.noise_multiplier={NOISE[0]}"),
    f"devices.overrides.2.privacy.dpsgd.noise_multiplier={NOISE[1]}",
)
TARGET = ("strategy=pipar", *WHOLE, "privacy.dpsgd.target_epsilon=6", "checkpoint.keep=5")
JOBS = {
    "pipar": ("strategy=pipar", *WHOLE, *ON),
    "fl": ("strategy=fl", *ON),
    "sl": ("strategy=sl", "pipeline.split_point=2", *ON),
    "shared": ("strategy=sfl", "sfl.server=shared", "pipeline.split_point=2", *ON),
    "poisson": (
        *("strategy=pipar", *WHOLE, *ON, "privacy.dpsgd.sampling=poisson"),
        *(f"devices.overrides.{number}.batch_size={size}" for number, size in enumerate(POISSON, start=1)),
    ),
    "plain": (
        *("strategy=pipar", *WHOLE, "privacy.dpsgd.noise_multiplier=0", "privacy.dpsgd.max_grad_norm=1e9"),
    ),
    "target": TARGET,
}
COMMON = merged(*SMALL, f"epochs={EPOCHS}", "model=vgg5", "model.norm=group")
SECOND = f"devices.overrides.2.batch_size={references.BATCH_SIZES[1]}"


@pytest.fixture(scope="module")
def jobs(module_processes):
    jobs = {name: own if name == "poisson" else (*own, SECOND) for name, own in JOBS.items()}
    arguments = sweep_of(module_processes.directory, jobs)
    done = module_processes.torchrun(3, *arguments, *COMMON, module="tests.support.float64_main", timeout=200)
    assert done.code == 0, done.err
    return dict(zip(JOBS, (path for _, path in sorted(job_dirs(module_processes).items())), strict=True))


class Device:
    """A network, cut after its second unit, as one device trains it."""

    def __init__(self, network, number, split_point):
        self.network = network
        self.loop = SingleSamples(network, split_point, NORM, NOISE[number - 1], number)
        halves = (half for half in (network[:split_point], network[split_point:]) if len(half))
        self.optimizers = [references.Reference.sgd(half) for half in halves]

    def step(self, batches, epoch, iteration):
        size = batches.expected or None
        self.loop.set(*batches.get(epoch, iteration), epoch, iteration, size)
        for optimizer in self.optimizers:
            optimizer.step()


def train_averaged(name):
    poisson, split_point = name == "poisson", 5 if name == "fl" else 2
    batches = references.all_batches(POISSON if poisson else references.BATCH_SIZES, poisson)
    network = references.initial_network()
    networks = [copy.deepcopy(network) for _ in batches]
    if name == "shared":
        halves = (copy.deepcopy(network[:2]) for _ in batches)
        networks = [named(network, nn.Sequential(*half, *network[2:])) for half in halves]
    devices = [Device(own, number, split_point) for number, own in enumerate(networks, start=1)]
    if name == "shared":
        devices[1].optimizers[1] = devices[0].optimizers[1]
    for epoch in range(1, EPOCHS + 1):
        for iteration in range(max(map(len, batches))):
            for device, own in zip(devices, batches, strict=True):
                if iteration < len(own):
                    device.step(own, epoch, iteration)
        states = [{key: own.clone() for key, own in net.state_dict().items()} for net in networks]
        average = references.weighted_average(states, [references.SAMPLES] * 2)
        for net in networks:
            net.load_state_dict(average)
    return average


def named(network, layers):
    """The layers under the units' own names, which name the noise."""
    return nn.Sequential(OrderedDict(zip(network._modules, layers, strict=True)))


def train_in_turn():
    network, batches = references.initial_network(), references.all_batches()
    devices = [Device(network, 1, 2), Device(network, 2, 2)]
    devices[1].optimizers[1] = devices[0].optimizers[1]
    for epoch in range(1, EPOCHS + 1):
        for device, own in zip(devices, batches, strict=True):
            for iteration in range(len(own)):
                device.step(own, epoch, iteration)
    return network.state_dict()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["pipar", "fl", "sl", "shared", "poisson", "plain"])
def test_training_equals_a_loop_over_single_samples(jobs, name):
    match name:
        case "plain":
            reference = references.federated(num_micro_batches=3)
        case "sl":
            reference = train_in_turn()
        case _:
            reference = train_averaged(name)
    assert_close(torch.load(jobs[name] / "model.pt"), reference, 1e-9)


def test_results_tell_epsilons_and_how_much_was_clipped(jobs):
    first, second = (rows_of(jobs["pipar"])[epoch]["epsilon_dpsgd"].split(";") for epoch in (0, 1))
    assert all(0 < float(one) < float(two) for one, two in zip(first, second, strict=True))
    assert float(first[1]) < float(first[0])  # device 2 has more noise
    assert 0 < float(rows_of(jobs["pipar"])[0]["clipped_share"]) <= 1
    assert float(rows_of(jobs["plain"])[0]["clipped_share"]) == 0


def test_a_budget_is_kept_through_a_resume_with_more_epochs(jobs, module_processes):
    """The noise is that of the first two epochs, and no third one is trained."""
    begun = f"resume={jobs['target']}/checkpoints/round_000001.pt"
    options = merged(*COMMON, *TARGET, SECOND, "epochs=4", "hydra.run.dir=resumed")
    done = module_processes.torchrun(3, *options, begun, module="tests.support.float64_main", timeout=100)
    assert done.code == 0, done.err
    resumed = module_processes.directory / "resumed"
    whole, again = (torch.load(path / "model.pt") for path in (jobs["target"], resumed))
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert len(rows_of(resumed)) == EPOCHS
    spent = [float(own) for own in rows_of(resumed)[-1]["epsilon_dpsgd"].split(";")]
    assert all(5.9 < own <= 6 for own in spent)
    assert "the job ends before epoch 3: device 1 has spent epsilon" in done.out
