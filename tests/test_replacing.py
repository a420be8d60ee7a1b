"""A folder that holds a run: nobody begins there, unless to replace it, and then nothing is lost."""

import os
from pathlib import Path

import psutil
import pytest
import torch
from omegaconf import OmegaConf

from pipar_rpc import composition, jobs, replacing, resuming, storage
from pipar_rpc.checkpoint import CheckpointFolder
from pipar_rpc.errors import UserError
from pipar_rpc.plan import make_plan

from .conftest import SMALL
from .test_restart import child_of
from .test_resume import BASE, make
from .test_rpc import rows_of

WORLD = jobs.World(0, 3, 0, 3)
DYING = "tests.dying_main"


def make_run(folder, mark="old", rounds=(3, 4), rows=1, model=True):
    """What a run leaves; every file has its mark in it."""
    for name in (".hydra/config.yaml", "tensorboard/events", "pipar_rpc.log", "config.yaml", "partition.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{mark} {name}")
    (folder / "results.csv").write_text("job,epoch\n" + f"{mark},1\n" * rows)
    for number in rounds:
        CheckpointFolder(folder, keep=9).save(make(number))
    if model:
        (folder / "model.pt").write_text(mark)


def make_sweep(folder, *names, mark="old"):
    folder.mkdir(exist_ok=True)
    (folder / "multirun.yaml").write_text(mark)
    for name in names:
        make_run(folder / name, mark)


def files(folder):
    """Contents by the paths at which they were before anything was moved."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            name = path.relative_to(folder).as_posix()
            found[name.removeprefix("replaced.partial/").removeprefix("replaced/")] = path.read_bytes()
    return found


def begin(folder, *overrides, sweep=False):
    """What rank 0 does before Hydra: where the run is to be, and whether it goes on there."""
    arguments = [*SMALL, f"hydra.{'sweep' if sweep else 'run'}.dir={folder}", *overrides]
    arguments += ["--multirun", "seed=0,1"] if sweep else []
    raw, multirun = composition.compose(arguments)
    return jobs.job_folder(arguments, raw, multirun, WORLD, None)


def refused(folder, *overrides, sweep=False):
    before = files(folder)
    with pytest.raises(UserError) as error:
        begin(folder, *overrides, sweep=sweep)
    assert files(folder) == before
    assert "\n" not in str(error.value)
    return str(error.value)


SIGNS = {
    "checkpoints/round_000003.pt": lambda folder: CheckpointFolder(folder).save(make(3)),
    "model.pt": lambda folder: (folder / "model.pt").write_text(""),
    "results.csv": lambda folder: (folder / "results.csv").write_text("job,epoch\n0,1\n"),
    "config.yaml": lambda folder: (folder / "config.yaml").write_text("seed: 0\n"),
    "multirun.yaml": lambda folder: (folder / "multirun.yaml").write_text(""),
    "replaced": lambda folder: make_run(folder / "replaced"),
    "replaced.partial": lambda folder: make_run(folder / "replaced.partial"),
}


@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize("sign", SIGNS)
def test_a_folder_that_holds_a_run_is_refused(tmp_path, sign, sweep):
    SIGNS[sign](tmp_path)
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    line = f"{key}={tmp_path}: holds a run ({sign}): resume=auto goes on with it, overwrite=true replaces it"
    assert refused(tmp_path, sweep=sweep) == line
    assert begin(tmp_path, "overwrite=true", sweep=sweep) == (tmp_path, False)


def test_jobs_of_a_sweep_are_found_however_deep(tmp_path):
    make_sweep(tmp_path, "1/job", "2/job")
    assert "holds a run (1/job/checkpoints/round_000004.pt)" in refused(tmp_path, sweep=True)
    assert "holds a run (1/job/checkpoints/round_000004.pt)" in refused(tmp_path)
    (tmp_path / "multirun.yaml").unlink()
    assert "holds a run (1/job/checkpoints/round_000004.pt)" in refused(tmp_path, sweep=True)
    assert "this is neither" in refused(tmp_path, "overwrite=true", sweep=True)  # it might be outputs/ itself
    assert begin(tmp_path) == (tmp_path, False)  # a run beside others is in nobody's way


def test_what_never_began_and_what_is_not_ours_is_no_run(tmp_path):
    make_run(tmp_path, rounds=(), model=False)
    for name in ("config.yaml", "results.csv"):
        (tmp_path / name).unlink()
    (tmp_path / "notes.txt").write_text("mine")
    assert begin(tmp_path) == (tmp_path, False)
    assert begin(tmp_path, sweep=True) == (tmp_path, False)


def test_resume_auto_begins_anew_only_where_nothing_was_trained(tmp_path):
    make_run(tmp_path, rounds=(), rows=0, model=False)
    assert begin(tmp_path, "resume=auto") == (tmp_path, False)
    (tmp_path / "results.csv").write_text("job,epoch\n0,1\n")
    assert "holds a run (results.csv), but nothing to go on with" in refused(tmp_path, "resume=auto")
    jobs_line = pytest.raises(UserError, match=r"holds a run \(results.csv\)")
    with jobs_line:
        replacing.refuse_job(tmp_path, resume=True)


def test_another_training_is_replaced_by_resume_auto_only_with_overwrite(tmp_path):
    make_run(tmp_path)
    assert "another training is in" in refused(tmp_path, "resume=auto")
    assert begin(tmp_path, "resume=auto", "overwrite=true") == (tmp_path, False)
    arguments = [*SMALL, f"hydra.run.dir={tmp_path}"]
    raw, _ = composition.compose(arguments)
    OmegaConf.save(jobs._resolved(raw, WORLD), tmp_path / "config.yaml")
    assert begin(tmp_path, "resume=auto", "overwrite=true") == (tmp_path, True)  # the same one goes on
    (tmp_path / "tensorboard").rename(tmp_path / "replaced.partial")  # unless it was being replaced
    assert begin(tmp_path, "resume=auto", "overwrite=true") == (tmp_path, False)
    assert "holds a run" in refused(tmp_path, "resume=auto")


def test_a_checkpoint_of_the_folder_itself_goes_on_there_and_others_do_not(tmp_path):
    here, other = tmp_path / "here", tmp_path / "other"
    make_run(here)
    make_run(other)
    for path in (here, here / "checkpoints", here / "checkpoints/round_000003.pt"):
        assert begin(here, f"resume={path}") == (here, False)
        assert "holds a run" in refused(other, f"resume={path}")
        assert begin(other, f"resume={path}", "overwrite=true") == (other, False)


@pytest.fixture
def interrupted(monkeypatch):
    """Kills after so many files have been moved."""

    def kill_after(count):
        left = [count]
        for name in ("replace", "rename"):
            real = getattr(Path, name)

            def move(self, target, real=real):
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return real(self, target)

            monkeypatch.setattr(Path, name, move)

    yield kill_after
    monkeypatch.undo()


@pytest.mark.parametrize("sweep", [False, True])
def test_a_kill_at_any_moment_loses_nothing(tmp_path, interrupted, monkeypatch, sweep):
    for count in range(100):
        folder = tmp_path / str(count)
        make_sweep(folder, "0_a", "deep/1_b") if sweep else make_run(folder)
        (folder / "notes.txt").write_text("mine")
        before = files(folder)
        interrupted(count)
        try:
            replacing.set_aside(folder, sweep)
            break
        except KeyboardInterrupt:
            monkeypatch.undo()
        assert files(folder) == before
        assert "holds a run" in refused(folder, sweep=sweep)
        refused(folder, "resume=auto", sweep=sweep)
        replacing.set_aside(folder, sweep)
        assert files(folder) == before
        assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "replaced"]
    assert count > 5


def test_a_newer_run_counts_from_its_first_checkpoint_on(tmp_path):
    make_run(tmp_path)
    older = files(tmp_path)
    replacing.set_aside(tmp_path, sweep=False)
    make_run(tmp_path, "failed", rounds=(), rows=2, model=False)
    replacing.set_aside(tmp_path, sweep=False)  # it got nowhere: the older stays
    assert files(tmp_path) == older
    make_run(tmp_path, "newer", rounds=(0,), rows=0, model=False)  # killed before the older had been removed
    newer = {name: content for name, content in files(tmp_path).items() if not name.startswith("checkpoints")}
    replacing.set_aside(tmp_path, sweep=False)
    assert (tmp_path / "replaced" / "config.yaml").read_text() == "newer config.yaml"
    assert [path.name for path in CheckpointFolder(tmp_path / "replaced").files()] == ["round_000000.pt"]
    assert newer.keys() >= files(tmp_path).keys() - {"checkpoints/round_000000.pt"} - {"model.pt"}
    replacing.release(tmp_path, tmp_path)
    assert files(tmp_path) == {}


def test_the_jobs_of_an_older_sweep_go_one_by_one_and_nothing_else_does(tmp_path):
    make_sweep(tmp_path, "0_a", "1_b", "2_c")
    (tmp_path / "1_b" / "notes.txt").write_text("mine")
    replacing.set_aside(tmp_path, sweep=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1_b", "replaced"]
    make_sweep(tmp_path, "0_a", "1_b", mark="new")
    replacing.release(tmp_path, tmp_path / "0_a")
    assert sorted(path.name for path in (tmp_path / "replaced").iterdir()) == ["1_b", "2_c", "multirun.yaml"]
    # Killed, and begun anew: the newest of each job is kept.
    replacing.set_aside(tmp_path, sweep=True)
    marks = {name: (tmp_path / "replaced" / name / "model.pt").read_text() for name in ("0_a", "1_b", "2_c")}
    assert marks == {"0_a": "new", "1_b": "new", "2_c": "old"}
    replacing.release(tmp_path, tmp_path)
    assert files(tmp_path) == {"1_b/notes.txt": b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["1_b"]


def test_a_run_that_is_still_written_is_not_replaced(tmp_path):
    make_sweep(tmp_path, "0_a", "1_b")
    before = files(tmp_path)
    with storage.alone_in(tmp_path / "1_b"):
        assert "another run is writing there" in refused(tmp_path, "overwrite=true", sweep=True)
        with pytest.raises(UserError, match="another run is writing there"):
            replacing.set_aside(tmp_path, sweep=True)
    assert files(tmp_path) == before


def test_a_checkpoint_that_was_moved_aside_is_found(tmp_path):
    make_run(tmp_path)
    settings = [*SMALL, "checkpoint.every=1"]
    plan = make_plan(composition.compose(settings)[0], 3, Path("nowhere"), True)
    for number in (3, 4):
        own = make(number)
        own.settings = resuming.settings_of(plan)
        CheckpointFolder(tmp_path, keep=9).save(own)
    for name in (".", "checkpoints", "checkpoints/round_000003.pt"):
        plan.config.resume = str(tmp_path / name)
        number = 3 if name.endswith("pt") else 4
        checkpoint, in_place = resuming.find(plan, tmp_path, goes_on=False)
        assert (checkpoint.round, in_place) == (number, True)
        replacing.set_aside(tmp_path, sweep=False)
        checkpoint, in_place = resuming.find(plan, tmp_path, goes_on=False)
        assert (checkpoint.round, in_place) == (number, False)
        for path in (tmp_path / "replaced").iterdir():
            path.rename(tmp_path / path.name)
        (tmp_path / "replaced").rmdir()
    # torchrun has started the ranks again: the named one counts until the first after it has been written.
    assert resuming.find(plan, tmp_path, goes_on=True)[0].round == 3
    (tmp_path / "checkpoints/round_000003.pt").unlink()
    assert resuming.find(plan, tmp_path, goes_on=True)[0].round == 4


def test_checkpoints_that_cannot_be_read_end_a_resume_and_stay(tmp_path):
    make_run(tmp_path)
    plan = make_plan(composition.compose([*SMALL, "resume=auto"])[0], 3, Path("nowhere"), True)
    for path in CheckpointFolder(tmp_path).files():
        path.write_bytes(b"damaged")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"round_000004.pt: not a whole checkpoint: .*; no other can be read"):
        resuming.find(plan, tmp_path, goes_on=True)
    assert files(tmp_path) == before


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    storage.write_whole(path, lambda file: file.write(b"old"))

    def killed(_):
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        storage.write_whole(path, lambda file: file.write(b"new"))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]


NAMES = {  # what a job does: how its folder's name ends
    "strategy=fl": "_4g",
    "strategy=sl": "_4g_P1",
    "strategy=sfl": "_4g_P1",
    "strategy=pipar": "_4g_P1_N8",
    "method=selected": "_4g_selected",
}


@pytest.mark.parametrize("what", NAMES)
def test_names_tell_what_a_job_does(what):
    composed, _ = composition._compose([what, "hydra.job.num=0"])
    assert composed.hydra.sweep.subdir.endswith(f"_vgg5_digits{NAMES[what]}")


def test_the_content_of_a_partition_file_identifies_a_training(tmp_path):
    parts = [list(range(20)), list(range(20, 40))]
    for name, content in (("a", parts), ("b", parts), ("c", parts[::-1])):
        (tmp_path / f"{name}.json").write_text(str(content))
    settings, configs = {}, {}
    for name in "abc":
        arguments = [*SMALL, "partition=file", f"partition.path={tmp_path / name}.json"]
        raw, _ = composition.compose(arguments)
        settings[name] = resuming.settings_of(make_plan(raw, 3, Path("nowhere"), True))
        configs[name] = jobs._resolved(raw, WORLD)
    assert settings["a"] == settings["b"] != settings["c"]
    (tmp_path / "run").mkdir()
    OmegaConf.save(configs["a"], tmp_path / "run" / "config.yaml")
    different = {name: resuming.difference(config, tmp_path / "run") for name, config in configs.items()}
    assert different == {"a": None, "b": None, "c": "partition.content"}


def test_an_older_run_is_there_until_the_new_one_has_a_checkpoint(processes):
    """One folder: a run whose model is cut off, one killed as it begins, one whose server is killed."""
    fixed = (*BASE, "hydra.run.dir=job")
    job = processes.directory / "job"
    torchrun = processes.start_torchrun(3, *fixed, module=DYING, options=("--max-restarts=1",))
    done = processes.finish(torchrun, 120)
    assert done.code == 0, done.err
    assert "nothing is left to train" in done.out
    assert torch.load(job / "model.pt", weights_only=True)  # half of it is no finished training
    assert {path.name for path in job.iterdir()} <= {*replacing.PARTS, ".lock"}
    before = files(job)
    killed = processes.start_torchrun(3, *fixed, "seed=1", "overwrite=true")
    processes.wait_for("job/replaced")
    ranks = psutil.Process(killed.pid).children()  # which outlive a torchrun that is killed
    for process in (*ranks, killed):
        process.kill()
    psutil.wait_procs(ranks, 20)
    killed.wait()
    assert files(job / replacing.ASIDE) == before
    torchrun = processes.start_torchrun(3, *fixed, "overwrite=true", options=("--max-restarts=2",))
    processes.wait_for("job/checkpoints/round_000006.pt")
    child_of(torchrun).kill()
    done = processes.finish(torchrun, 120)
    assert done.code == 0, done.err
    assert "resumed from the end of round " in done.out, done.out + done.err
    assert not (job / replacing.ASIDE).exists()
    assert [row["epoch"] for row in rows_of(job)] == ["1", "2", "3"]
    assert (job / "pipar_rpc.log").read_text().count("epoch 3/3") == 1
    before = files(job)
    refusal = processes.torchrun(3, *fixed)
    assert "error: hydra.run.dir=job: holds a run (checkpoints/round_" in refusal.err
    assert files(job) == before
