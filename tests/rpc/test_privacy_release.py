"""Mechanisms at the cut and of updates over RPC: strategies, single devices, accounts; double precision."""

import copy
import math

import pytest
import torch

from pipar_rpc.base.dotted import Choice
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.privacy.account import gaussian_epsilon, laplace_epsilon
from pipar_rpc.privacy.noise import PrivacyNoise
from pipar_rpc.privacy.registry import build_cut_privacy
from pipar_rpc.privacy.spec import LAPLACE, ActivationNoiseSpec, PrivacySpec
from tests.support import references
from tests.support.loops import assert_close
from tests.support.overrides import SMALL, sweep_of
from tests.support.references import EPOCHS, Codecs, Reference
from tests.support.results import job_dirs, rows_of

NORM, NOISE, ADAM = 0.05, 0.3, {"eta": 0.02, "beta1": 0.6, "beta2": 0.7, "tau": 0.005}
INT8 = CodingSpec(CodecSpec("int8"), CodecSpec("int8"))
OWN = "tests.support.mechanisms.Halved"
ACTIVATIONS = (
    *("privacy.activations.max_norm=0.5", "privacy.activations.noise_multiplier=0.8"),
    *("devices.overrides.2.privacy.activations.noise_multiplier=0.01", "privacy.nopeek.weight=0.5"),
    "devices.overrides.2.privacy.activations.distribution=laplace",
)
UPDATES = (f"privacy.updates.max_norm={NORM}", f"privacy.updates.noise_multiplier={NOISE}")
ADAM_RULE = ("aggregation.rule.name=fedadam", *(f"aggregation.rule.args.{key}={ADAM[key]}" for key in ADAM))
JOBS = {
    "pipar": (
        *("strategy=pipar", "pipeline.num_micro_batches=3", *ACTIVATIONS),
        *("compression.activations.name=int8", "compression.gradients.name=int8"),
    ),
    "sl": ("strategy=sl", *ACTIVATIONS),
    "own": ("strategy=sfl", f"privacy.cut._target_={OWN}", *UPDATES),
    "adam": ("strategy=pipar", "pipeline.num_micro_batches=3", *UPDATES, *ADAM_RULE),
    "fl": ("strategy=fl", *ACTIVATIONS, *UPDATES),
}
SPECS = (
    PrivacySpec(nopeek=0.5, activations=ActivationNoiseSpec(0.5, 0.8)),
    PrivacySpec(nopeek=0.5, activations=ActivationNoiseSpec(0.5, 0.01, LAPLACE)),
)


@pytest.fixture(scope="module")
def jobs(module_processes):
    overrides = [option for option in SMALL if not option.startswith("epochs")]
    overrides += [f"epochs={EPOCHS}", f"devices.overrides.2.batch_size={references.BATCH_SIZES[1]}"]
    overrides += ["model=vgg5", "model.norm=group", "pipeline.split_point=2"]
    arguments = [*sweep_of(module_processes.directory, JOBS), *overrides]
    done = module_processes.training(3, *arguments, module="tests.support.float64_without_pictures")
    assert done.code == 0, done.err
    return dict(zip(JOBS, (path for _, path in sorted(job_dirs(module_processes).items())), strict=True))


def protected(aggregate, network):
    """Clips the updates, adds noise to their mean and hands it to a rule as the average."""
    held, rounds = {name: value.clone() for name, value in network.state_dict().items()}, []

    def average(states, samples):
        changes = [torch.cat([(own[name] - held[name]).flatten() for name in held]) for own in states]
        clipped = [change * min(1.0, NORM / float(change.norm())) for change in changes]
        mean = (sum(clipped) / len(states)).split([value.numel() for value in held.values()])
        source, found = PrivacyNoise(0, False, "updates"), {}
        for (name, before), change in zip(held.items(), mean, strict=True):
            noise = source.gaussian(before.shape, len(rounds), name) * NOISE * NORM / len(states)
            found[name] = before + change.view_as(before) + noise
        rounds.append(1)
        held.update(aggregate([found], [1]))
        return dict(held)

    return average


def reference(name):
    network, batches = references.initial_network(), references.all_batches()
    number = 3 if name in {"pipar", "adam"} else 1
    codec = INT8 if name == "pipar" else CodingSpec()
    specs = SPECS if name == "pipar" else [PrivacySpec(cut=Choice(target=OWN) if name == "own" else None)] * 2
    devices = [
        Reference(
            *(copy.deepcopy(network), 2, number, Coding(codec, 0, rank)),
            privacy=build_cut_privacy(spec, 0, rank),
        )
        for rank, spec in enumerate(specs, start=1)
    ]
    rule = references.server_adam(**ADAM) if name == "adam" else references.fedavg
    aggregate = rule(network) if name == "pipar" else protected(rule(network), network)
    average = devices[0].state()
    for epoch in range(1, EPOCHS + 1):
        for device, own in zip(devices, batches, strict=True):
            for iteration in range(len(own)):
                device.step(own, epoch, iteration)
        average = references.averaged(devices, average, aggregate, Codecs())
    return average


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["pipar", "own", "adam", "fl"])
def test_it_equals_a_plain_loop_with_the_same_mechanisms(jobs, name):
    assert_close(torch.load(jobs[name] / "model.pt"), reference(name), 1e-9)


@pytest.mark.usefixtures("double_precision")
def test_it_does_in_turn(jobs):
    codings = [Coding(CodingSpec(), 0, rank) for rank in (1, 2)]
    whole, batches = Reference(references.initial_network(), 2), references.all_batches()
    optimizers = [Reference.sgd(whole.network[:2]) for _ in batches]
    for epoch in range(1, EPOCHS + 1):
        for index, own in enumerate(batches):
            whole.optimizers[0], whole.coding = optimizers[index], codings[index]
            whole.privacy = build_cut_privacy(SPECS[index], 0, index + 1)
            for iteration in range(len(own)):
                whole.step(own, epoch, iteration)
    assert_close(torch.load(jobs["sl"] / "model.pt"), whole.state(), 1e-9)


def epsilons(path, what):
    return [[float(own) for own in row[f"epsilon_{what}"].split(";")] for row in rows_of(path)]


def test_epsilons_grow_by_epoch(jobs):
    """Each sample is released once in each; devices have their own noise; sensitivity is twice the norm."""
    expected = [[gaussian_epsilon(0.4, 1.0, n, 1e-5), laplace_epsilon(0.005, n)] for n in (1, 2)]
    for name in ("pipar", "sl"):
        assert epsilons(jobs[name], "activations") == [pytest.approx(own, rel=1e-3) for own in expected]
    assert epsilons(jobs["fl"], "activations") == [[0, 0], [0, 0]]  # nothing is released
    for name in ("own", "adam", "fl"):
        (one, _), (two, _) = epsilons(jobs[name], "updates")
        assert one == pytest.approx(gaussian_epsilon(NOISE, 1.0, 1, 1e-5), rel=1e-3)
        assert two == pytest.approx(gaussian_epsilon(NOISE, 1.0, 2, 1e-5), rel=1e-3)
        assert one < two < math.inf
    assert all(row["epsilon_updates"] == "" for row in rows_of(jobs["pipar"]))


def test_what_is_clipped_and_what_mechanisms_take_is_in_the_results(jobs):
    for row in rows_of(jobs["adam"]):
        assert float(row["updates_clipped"]) in {0.0, 0.5, 1.0}
        assert row["device_coding_s"] == ""
    for row in rows_of(jobs["sl"]):
        assert row["updates_clipped"] == row["server_coding_s"] == ""
        assert float(row["device_coding_s"]) > 0
    assert all(row["coded_test_accuracy"] for row in rows_of(jobs["own"]))  # with the mechanism
