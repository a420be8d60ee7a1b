"""Federated, split and split federated learning through the same loops, against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.base.threads import open_pool
from pipar_rpc.transport.turn_order import Rotation
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


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms())
def test_a_rotation_runs_iteration_by_iteration_whoever_is_first(lengths, random):
    ran = []
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, len(lengths))
        rotation.lengths = lengths
        calls = [(index, number) for index, length in enumerate(lengths) for number in range(2 * length)]
        random.shuffle(calls)
        for index, number in calls:
            rotation.lane(index).submit(
                number, lambda index=index, number=number: ran.append((index, number))
            )
        rotation.settle(5)
    assert ran == in_rotation(lengths, range(len(lengths)))


def in_rotation(lengths, present):
    """Two epochs, from the start."""
    return [
        (index, epoch * lengths[index] + iteration)
        for epoch in range(2)
        for iteration in range(max(lengths[index] for index in present))
        for index in present
        if iteration < lengths[index]
    ]


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.data())
def test_a_rotation_passes_over_a_device_that_has_left(lengths, data):
    """Whatever it has done before, the others' turns are what they would be without it."""
    gone = data.draw(st.integers(0, len(lengths) - 1))
    done = data.draw(st.integers(0, 2 * lengths[gone]))
    ran = []
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, len(lengths))
        rotation.lengths = lengths
        for index, length in enumerate(lengths):
            for number in range(done if index == gone else 2 * length):
                call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
                rotation.lane(index).submit(number, call)
        rotation.lane(gone).leave()
        rotation.settle(5)
    others = [index for index in range(len(lengths)) if index != gone]
    assert [entry for entry in ran if entry[0] != gone] == in_rotation(lengths, others)


def test_a_rotation_begins_inside_an_epoch():
    ran = []
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, 2)
        rotation.lengths, rotation.iteration = (2, 3), 2
        for index, number in ((0, 0), (1, 1), (0, 1), (1, 0)):
            call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
            rotation.lane(index).submit(number, call)
        rotation.settle(5)
    assert ran == [(1, 0), (0, 0), (1, 1), (0, 1)]  # the first epoch has one iteration left, of device 2
