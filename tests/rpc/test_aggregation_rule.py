"""Aggregation rules over RPC against a plain loop."""

import pytest
import torch

from tests.support.loops import assert_close
from tests.support.overrides import SMALL, sweep_of
from tests.support.references import (
    SPLIT,
    federated,
    server_momentum,
    split_federated_with_one_server_half,
)

BETA, LR, ROUNDS = 0.5, 0.75, 3
JOBS = {
    "pipar": ("pipeline.num_micro_batches=3",),
    "fl": ("strategy=fl",),
    "plain": ("aggregation.rule.args.beta=0.0", "aggregation.rule.args.lr=1.0"),
    "shared": ("strategy=sfl", "sfl.server=shared"),
}


@pytest.fixture(scope="module")
def models(module_processes):
    common = [option for option in SMALL if not option.startswith("epochs")]
    common += [f"epochs={ROUNDS}", "model.norm=group", f"pipeline.split_point={SPLIT}"]
    common += ["devices.overrides.2.batch_size=4", "aggregation/rule=fedavgm"]
    rule = (f"aggregation.rule.args.beta={BETA}", f"aggregation.rule.args.lr={LR}")
    sweep = sweep_of(module_processes.directory, {name: (*rule, *more) for name, more in JOBS.items()})
    done = module_processes.torchrun(3, *common, *sweep, module="tests.support.float64_main", timeout=180)
    assert done.code == 0, done.err
    folders = sorted(path.parent for path in module_processes.directory.glob("outputs/*/*/*/model.pt"))
    return {name: torch.load(path / "model.pt") for name, path in zip(JOBS, folders, strict=True)}


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", JOBS)
def test_over_rpc_it_equals_a_plain_loop(models, name):
    reference = split_federated_with_one_server_half if name == "shared" else federated
    rule = {} if name == "plain" else {"rule": server_momentum(BETA, LR)}
    assert_close(models[name], reference(epochs=ROUNDS, **rule), 1e-9)
