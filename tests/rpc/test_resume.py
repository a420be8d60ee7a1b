"""Killed and resumed is uninterrupted, bit for bit; whatever else a checkpoint must withstand."""

import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipar_rpc.checkpoints.file import CheckpointFolder
from tests.support.overrides import BASE, SMALL, merged, sweep_of
from tests.support.processes import PATIENCE_S, run
from tests.support.results import assert_same, files, rows_of

INT8 = (  # a quarter of the bytes, and of the rate
    *(f"compression.{what}.name=int8" for what in ("activations", "gradients", "models")),
    "network.uplink_mbps=0.25",
)
JOBS = {
    "sl": ("strategy=sl", "fault.leave.1=4", *INT8),
    "shared": ("strategy=sfl", "sfl.server=shared", "fault.leave.1=5", "pipeline.labels=device"),
    "pipar": (  # with dropout, and with a rule and an optimiser that have states of their own
        *("optimizer.name=adamw", "optimizer.momentum=0", "loss.args.label_smoothing=0.1"),
        *("schedule.name=cosine", "schedule.args.T_max=7", "schedule.every=iteration", "schedule.warmup=2"),
        "participation.per_round=1",
        *("model=mobilenet_small", "model.norm=group", "pipeline.split_point=2"),
        *("aggregation.rule.name=fedyogi", "aggregation.rule.args.beta1=0.5", *INT8),
        *("privacy.activations.noise_multiplier=0.1", "privacy.activations.max_norm=10"),
        *("privacy.nopeek.weight=0.1", "privacy.updates.noise_multiplier=0.1"),
    ),
    "never_averaged": ("aggregation.every=0", "pipeline.labels=device", "pipeline.tail_units=2"),
}


def steps(job):
    """Of all curves and pictures in TensorBoard."""
    events = EventAccumulator(str(job / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    curves = {tag: [scalar.step for scalar in events.Scalars(tag)] for tag in tags["scalars"]}
    return curves | {tag: [image.step for image in events.Images(tag)] for tag in tags["images"]}


@pytest.fixture(scope="module")
def jobs(module_processes):
    """A sweep without an interruption, and one whose server is killed in each of its jobs."""
    base = merged(*BASE, "epochs=2")
    own = {name: dict(option.split("=", 1) for option in (*base, *more)) for name, more in JOBS.items()}
    same = ("data=", "network=", "epochs=")
    sweep = sweep_of(
        module_processes.directory,
        {
            name: tuple(f"{k}={v}" for k, v in values.items() if not f"{k}=".startswith(same))
            for name, values in own.items()
        },
    )
    sweep += [option for option in base if option.startswith(same)]
    done = module_processes.training(3, *sweep, "hydra.sweep.dir=whole")
    assert done.code == 0, done.err
    for index, name in enumerate(JOBS):
        number = 1 if name == "never_averaged" else 6  # inside the second epoch
        server, *devices = module_processes.ranks(3, *sweep, "resume=auto")
        module_processes.wait_for(f"outputs/*/*/{index}_*/checkpoints/round_{number:06}.pt")
        server.send_signal(signal.SIGKILL)
        for process in (server, *devices):
            process.wait(PATIENCE_S)
    done = module_processes.training(3, *sweep, "resume=auto")
    assert done.code == 0, done.err
    assert f"{len(JOBS)} jobs done, 0 failed" in done.out
    assert done.out.count("nothing is left to train") >= len(JOBS) - 2
    assert "resumed from the end of round " in done.out
    (killed,) = module_processes.directory.glob("outputs/*/*")
    return [
        dict(zip(JOBS, sorted(path for path in folder.iterdir() if path.is_dir()), strict=True))
        for folder in (module_processes.directory / "whole", killed)
    ]


@pytest.mark.parametrize("name", JOBS)
def test_killed_and_resumed_equals_uninterrupted(jobs, name):
    whole, killed = jobs
    assert_same(killed[name], whole[name])
    assert [row["epoch"] for row in rows_of(killed[name])] == ["1", "2"]
    curves, uninterrupted = steps(killed[name]), steps(whole[name])
    for tag, found in curves.items():
        assert found == sorted(set(found)), tag
    for tag in ("train/loss", "time/epoch_s", "accuracy/test", "hparam/train_loss"):
        assert curves[tag] == uninterrupted[tag]
    for what in ("epsilon_activations", "epsilon_updates"):
        assert [row[what] for row in rows_of(killed[name])] == [row[what] for row in rows_of(whole[name])]
    assert curves["train/loss_by_iteration"][-1] == uninterrupted["train/loss_by_iteration"][-1]


def test_nothing_is_left_of_a_run_that_has_ended_and_another_training_begins_beside_it(processes):
    run(processes, *SMALL)
    done = run(processes, *SMALL, "resume=auto")
    assert "nothing is left to train" in done.out
    (path,) = processes.directory.glob("outputs/*/*")
    assert len(rows_of(path)) == 1
    before = files(path)
    done = run(processes, *SMALL, "resume=auto", "optimizer.lr=0.05")
    assert "resume=auto: nothing to resume in outputs/pipar" in done.out + done.err
    assert len(list(processes.directory.glob("outputs/*/*/model.pt"))) == 2
    assert files(path) == before


def test_a_run_may_be_continued_elsewhere_with_more_epochs_and_other_cuts(processes):
    """The checkpoint stays as it is; and where the network is cut does not matter to the weights.

    The emulated network's time goes on, too.
    """
    more = (*BASE, "model.norm=group", "pipeline.num_micro_batches=1", "network.uplink_mbps=0.4")
    sweep = ("--multirun", "epochs=1,3,3", "hydra.sweep.dir=first", "hydra.sweep.subdir=${epochs}/job")
    done = processes.training(3, *more, *sweep)
    assert done.code == 2
    assert "2 jobs done, 1 failed" in done.out
    assert "failed: 3/job/job 2: hydra.sweep.subdir=job: must be another folder for each job" in done.out
    first, whole = (processes.directory / "first" / name / "job" for name in "13")
    other = ("pipeline.split_point=3", "network.uplink_mbps=2")
    run(processes, *more, *other, "hydra.run.dir=second", f"resume={first}")
    second = processes.directory / "second"
    assert [row["split_point"] for row in rows_of(second)] == ["1", "3", "3"]
    assert len(rows_of(first)) == 1
    saved = CheckpointFolder(first).latest()
    events = EventAccumulator(str(second / "tensorboard"))
    events.Reload()
    assert events.Scalars("network_by_second/uplink_mbps/device1")[0].step == int(saved.elapsed_s) > 0
    for name in (
        "model.pt",
        "model_best.pt",
    ):  # which may be of the first epoch, and so from the first folder
        one, two = (torch.load(path / name) for path in (second, whole))
        for key in one:
            torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=1e-5)
