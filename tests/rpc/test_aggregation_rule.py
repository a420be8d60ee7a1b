"""Aggregation rules over RPC against a plain loop."""

import pytest
import torch

from tests.support.loops import assert_close
from tests.support.overrides import SMALL, sweep_of
from tests.support.references import (
    SPLIT,
    federated,
    server_adam,
    server_momentum,
    split_federated_with_one_server_half,
)

ROUNDS = 3
MOMENTUM = {"beta": 0.5, "lr": 0.75}
ADAM = {"eta": 0.02, "beta1": 0.6, "beta2": 0.7, "tau": 0.005}


def options(name, args):
    return f"aggregation.rule.name={name}", *(f"aggregation.rule.args.{key}={args[key]}" for key in args)


JOBS = {
    "pipar": (*options("fedavgm", MOMENTUM), "pipeline.num_micro_batches=3"),
    "fl": (*options("fedavgm", MOMENTUM), "strategy=fl"),
    "plain": options("fedavgm", {"beta": 0.0, "lr": 1.0}),
    "shared": (*options("fedavgm", MOMENTUM), "strategy=sfl", "sfl.server=shared"),
    "adam": (*options("fedadam", ADAM), "pipeline.num_micro_batches=3"),
}
RULES = {"plain": {}, "adam": {"rule": server_adam(**ADAM)}}  # of the others: momentum


@pytest.fixture(scope="module")
def models(module_processes):
    common = [option for option in SMALL if not option.startswith("epochs")]
    common += [f"epochs={ROUNDS}", "model.norm=group", f"pipeline.split_point={SPLIT}"]
    common += ["devices.overrides.2.batch_size=4"]
    sweep = sweep_of(module_processes.directory, JOBS)
    done = module_processes.training(3, *common, *sweep, module="tests.support.float64_without_pictures")
    assert done.code == 0, done.err
    folders = sorted(path.parent for path in module_processes.directory.glob("outputs/*/*/*/model.pt"))
    return {name: torch.load(path / "model.pt") for name, path in zip(JOBS, folders, strict=True)}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", JOBS)
def test_over_rpc_it_equals_a_plain_loop(models, name):
    reference = split_federated_with_one_server_half if name == "shared" else federated
    rule = RULES.get(name, {"rule": server_momentum(**MOMENTUM)})
    assert_close(models[name], reference(epochs=ROUNDS, **rule), 1e-9)
