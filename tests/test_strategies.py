"""Federated, split and split federated learning through the same loops, against plain loops."""

import pytest
import torch

from tests.support.loops import assert_close
from tests.support.overrides import SMALL
from tests.support.references import (
    BATCH_SIZES,
    EPOCHS,
    SAMPLES,
    SPLIT,
    federated,
    split,
    split_federated_with_one_server_half,
)
from tests.support.results import job_dirs, rows_of

JOBS = [("fl", "replicated"), ("fl", "shared"), ("sl", "replicated"), ("sl", "shared")]
JOBS += [("sfl", "replicated"), ("sfl", "shared")]


REFERENCES = {
    ("sl", "replicated"): split,
    ("sl", "shared"): split,
    ("sfl", "shared"): split_federated_with_one_server_half,
}


@pytest.fixture(scope="module")
def sweep(module_processes):
    overrides = [option for option in SMALL if not option.startswith("epochs")]
    overrides += [f"epochs={EPOCHS}", "model.norm=group", f"pipeline.split_point={SPLIT}"]
    overrides += [f"devices.overrides.2.batch_size={BATCH_SIZES[1]}", "--multirun"]
    overrides += ["strategy=fl,sl,sfl", "sfl.server=replicated,shared"]
    done = module_processes.torchrun(3, *overrides, module="tests.support.float64_main", timeout=180)
    assert done.code == 0, done.err
    return done, job_dirs(module_processes)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("number", range(len(JOBS)))
def test_each_strategy_equals_its_plain_loop(sweep, number):
    _, jobs = sweep
    reference = REFERENCES.get(JOBS[number], federated)()
    assert_close(torch.load(jobs[number] / "model.pt"), reference, 1e-9)


def test_rows_say_what_was_done(sweep):
    done, jobs = sweep
    for number, (strategy, _) in enumerate(JOBS):
        for row in rows_of(jobs[number]):
            assert row["strategy"] == strategy
            assert row["num_micro_batches"] == "1"
            assert row["split_point"] == ("5" if strategy == "fl" else str(SPLIT))
            assert 0 <= float(row["test_accuracy"]) <= 1
    assert "strategy=fl: devices hold 5 of 5 cut units, one micro-batch" in done.out


def test_split_learning_pays_for_handing_the_device_half_on(sweep):
    _, jobs = sweep
    state = torch.load(jobs[2] / "model.pt")
    half = sum(value.nbytes for key, value in state.items() if key.startswith(("conv1", "conv2")))
    activations = 2 * SAMPLES * 64 * 2 * 2 * 8
    first, second = rows_of(jobs[2])
    for row in (first, second):
        assert int(row["uplink_bytes"]) == activations + 2 * SAMPLES * 8 + 2 * half
    assert int(first["downlink_bytes"]) == activations + half  # device 1 begins with the first weights
    assert int(second["downlink_bytes"]) == activations + 2 * half
