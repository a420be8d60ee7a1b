"""Every strategy through the same loops, against plain loops; of some networks only a part is trained."""

import csv
from functools import partial

import pytest
import torch

from pipar_rpc.selector.facts_file import read_facts
from pipar_rpc.selector.prediction import Predictor
from tests.support import references
from tests.support.frozen import make
from tests.support.loops import assert_close
from tests.support.merged import split_federated_merged
from tests.support.overrides import SMALL, sweep_of
from tests.support.own_network import WIDTH
from tests.support.references import EPOCHS, SAMPLES, SPLIT
from tests.support.results import assert_same, job_dirs, rows_of

PLAIN = [(strategy, server) for strategy in ("fl", "sl", "sfl") for server in ("replicated", "shared")]
JOBS = (
    {  # name, strategy, server halves, P, N; only PiPar has more than one micro-batch, whatever is asked for
        f"vgg5_{strategy}_{server}": ("vgg5", strategy, server, SPLIT, 1) for strategy, server in PLAIN
    }
    | {
        f"{name}_{strategy}_{server}": (name, strategy, server, 1, 3 if strategy == "pipar" else 1)
        for name in ("frozen_first", "pooling_first")
        for strategy, server in (
            *(("fl", "replicated"), ("sl", "replicated"), ("sfl", "replicated"), ("sfl", "shared")),
            ("pipar", "replicated"),
        )
    }
    | {
        "middle": ("frozen_middle", "pipar", "replicated", 1, 3),
        "last": ("frozen_last", "pipar", "replicated", 2, 3),
        "partly": ("frozen_first", "pipar", "replicated", 2, 3),
        "selected": ("pooling_first", "pipar", "replicated", 1, 1),
    }
    | {
        f"labels_{strategy}_{server}": ("vgg5", strategy, server, SPLIT, 1)
        for strategy, server in (("sl", "replicated"), ("sfl", "shared"), ("pipar", "replicated"))
    }
    | {
        "pipar_priority": ("vgg5", "pipar", "replicated", SPLIT, 8),
        "pipar_shared": ("vgg5", "pipar", "shared", SPLIT, 8),
        "sfl_merged": ("vgg5", "sfl", "merged", SPLIT, 1),
        "pipar_merged": ("vgg5", "pipar", "merged", SPLIT, 8),
        "pipar_merged_resumed": ("vgg5", "pipar", "merged", SPLIT, 8),
    }
)
SWEEP = "outputs/strategies/the_multirun"
TAIL = 2  # units of a device that keeps its labels
KEPT = ("pipeline.labels=device", f"pipeline.tail_units={TAIL}")


def options(name, strategy, server, point, count):
    network = ("model=custom", f"model._target_=tests.support.own_network.{name}")
    key = "server.half" if strategy == "pipar" or server == "merged" else "sfl.server"
    return (
        *(("model=vgg5", "model.norm=group") if name == "vgg5" else network),
        *(f"strategy={strategy}", f"{key}={server}", f"pipeline.split_point={point}"),
        f"pipeline.num_micro_batches={8 if name == 'vgg5' else count}",
    )


@pytest.fixture(scope="module")
def sweep(module_processes):
    jobs = {f"{number:02}": options(*job) for number, job in enumerate(JOBS.values())}
    for number in (number for number, job in enumerate(JOBS) if job.startswith("labels")):
        jobs[f"{number:02}"] += KEPT
    jobs[f"{[*JOBS].index('selected'):02}"] += (
        *("selector.profile_iterations=1", "selector.split_points=[1]", "timeline.epochs=1"),
    )
    jobs[f"{[*JOBS].index('pipar_priority'):02}"] += ("server.order.name=priority",)
    last = [*JOBS].index("pipar_merged_resumed")
    name = f"{last - 1}_pipar_vgg5_synthetic_none_P{SPLIT}_N8_merged"
    jobs[f"{last:02}"] += (f"resume={SWEEP}/{name}/checkpoints/round_000001.pt",)
    overrides = [option for option in SMALL if not option.startswith("epochs")]
    overrides += [
        f"hydra.sweep.dir={SWEEP}",
        f"epochs={EPOCHS}",
        f"devices.overrides.2.batch_size={references.BATCH_SIZES[1]}",
    ]
    arguments = [*sweep_of(module_processes.directory, jobs), *overrides]
    done = module_processes.training(3, *arguments, module="tests.support.float64_without_pictures")
    assert done.code == 0, done.err
    folders = (path for _, path in sorted(job_dirs(module_processes).items()))
    return done, dict(zip(JOBS, folders, strict=True))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("job", JOBS)
def test_each_strategy_equals_its_plain_loop(sweep, job):
    _, jobs = sweep
    name, strategy, server, point, count = JOBS[job]
    built = references.initial_network if name == "vgg5" else partial(make, name)
    tail = TAIL * job.startswith("labels")
    if job == "selected":
        count = int(rows_of(jobs[job])[0]["num_micro_batches"].split(";")[0])
    match strategy, server:
        case "sl", _:
            reference = references.split(built, point, tail=tail)
        case "sfl" | "pipar", "shared":
            reference = references.split_federated_with_one_server_half(built, point, tail=tail)
        case _, "merged":
            reference = split_federated_merged(built, point)
        case _:
            reference = references.federated(make=built, num_micro_batches=count)
    assert_close(torch.load(jobs[job] / "model.pt"), reference, 1e-9)


def test_a_merged_half_goes_on_bit_for_bit(sweep):
    """From the end of the first of two epochs."""
    done, jobs = sweep
    assert "resumed from the end of round 1 (next: epoch 2)" in done.out
    assert_same(jobs["pipar_merged_resumed"], jobs["pipar_merged"])
    assert {row["server_half"] for row in rows_of(jobs["pipar_merged"])} == {"merged"}
    assert {row["server_order"] for row in rows_of(jobs["pipar_priority"])} == {"priority"}


def test_rows_say_what_was_done(sweep):
    done, jobs = sweep
    for strategy, server in PLAIN:
        for row in rows_of(jobs[f"vgg5_{strategy}_{server}"]):
            assert row["strategy"] == strategy
            assert row["num_micro_batches"] == "1"
            assert row["split_point"] == ("5" if strategy == "fl" else str(SPLIT))
            assert 0 <= float(row["test_accuracy"]) <= 1
    assert "strategy=fl: devices hold 5 of 5 cut units, one micro-batch" in done.out


def test_split_learning_pays_for_handing_the_device_half_on(sweep):
    _, jobs = sweep
    state = torch.load(jobs["vgg5_sl_replicated"] / "model.pt")
    half = sum(value.nbytes for key, value in state.items() if key.startswith(("conv1", "conv2")))
    activations = 2 * SAMPLES * 64 * 2 * 2 * 8
    first, second = rows_of(jobs["vgg5_sl_replicated"])
    for row in (first, second):
        assert int(row["uplink_bytes"]) == activations + 2 * SAMPLES * 8 + 2 * half
    assert int(first["downlink_bytes"]) == activations + half  # device 1 begins with the first weights
    assert int(second["downlink_bytes"]) == activations + 2 * half


def test_no_gradient_comes_down(sweep):
    """Only models: of the frozen half, to both devices; of a half without parameters nothing."""
    _, jobs = sweep
    half = sum(own.nbytes for own in make("frozen_first").double()[:1].state_dict().values())
    samples = 2 * SAMPLES
    for job, models in (("frozen_first_pipar_replicated", 2 * half), ("pooling_first_sfl_shared", 0)):
        activation = (WIDTH * 4 * 4 if models else 3 * 4 * 4) * 8
        for row in rows_of(jobs[job]):
            assert int(row["downlink_bytes"]) == models, job
            assert int(row["uplink_bytes"]) == samples * (activation + 8) + models, job
    for row in rows_of(jobs["middle"]):
        assert int(row["downlink_bytes"]) > samples * WIDTH * 4 * 4 * 8


def test_two_crossings_are_charged_and_no_labels(sweep):
    """2x2 maps of 64 channels after the second and the third unit: one and the other's gradient each way."""
    _, jobs = sweep
    row = rows_of(jobs["labels_pipar_replicated"])[-1]
    state = torch.load(jobs["labels_pipar_replicated"] / "model.pt")
    half = sum(own.nbytes for name, own in state.items() if not name.startswith("conv3"))
    crossing = 2 * SAMPLES * 2 * (64 * 2 * 2) * 8
    assert int(row["uplink_bytes"]) == int(row["downlink_bytes"]) == crossing + 2 * half
    assert int(row["model_bytes"]) == 2 * half


def test_the_selector_of_a_running_job_knows(sweep):
    _, jobs = sweep
    with (jobs["selected"] / "selection.csv").open(newline="") as file:
        rows = {int(row["split_point"]): row for row in csv.DictReader(file)}
    assert (float(rows[1]["downlink"]), float(rows[1]["device_backward"])) == (0, 0)
    assert float(rows[2]["device_backward"]) > 0
    assert (jobs["selected"] / "trace.json").exists()


def test_what_the_selector_measured_gives_its_predictions_again(sweep):
    _, jobs = sweep
    facts = read_facts(jobs["selected"] / "facts.yaml")
    own = Predictor(facts.devices[0], facts.server, facts.sizes, halves=2)
    with (jobs["selected"] / "selection.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == "1"]
    assert len(rows) > 1
    for row in rows:
        found = own.candidate(int(row["split_point"]), int(row["num_micro_batches"]))
        assert found.iteration_s == pytest.approx(float(row["iteration_s"]), rel=1e-5)
