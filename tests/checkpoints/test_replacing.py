"""A folder that holds a run: nobody begins there, unless to replace it, and then nothing is lost."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipar_rpc import hydra_compose
from pipar_rpc.base import disk
from pipar_rpc.base.errors import UserError
from pipar_rpc.base.ranks import World
from pipar_rpc.checkpoints import replacing, resuming
from pipar_rpc.checkpoints.file import CheckpointFolder
from pipar_rpc.plan.plan import make_plan
from pipar_rpc.results import run_files
from pipar_rpc.sweep import _resolved, job_folder
from tests.support.checkpoints import make
from tests.support.overrides import SMALL
from tests.support.results import files

FOLDER_KEYS = ("hydra.run.dir", "hydra.sweep.dir")
WORLD = World(0, 3, 0, 3)


def configured(mark):
    """A config.yaml of a run."""
    return f"strategy: pipar\npipeline: {mark}\nseed: 0\n"


def make_run(folder, mark="old", rounds=(3, 4), rows=1, model=True):
    """What a run leaves; every file has its mark in it."""
    for name in (".hydra/config.yaml", "tensorboard/events", "pipar_rpc.log", "config.yaml", "partition.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{mark} {name}")
    (folder / "config.yaml").write_text(configured(mark))
    (folder / "results.csv").write_text("job,epoch\n" + f"{mark},1\n" * rows)
    for number in rounds:
        CheckpointFolder(folder, keep=9).save(make(number))
    if model:
        for name in ("model.pt", "model_best.pt"):
            (folder / name).write_text(mark)


def names(aside):
    return sorted({path.name for path in aside.iterdir()} - {run_files.MARK})


def make_sweep(folder, *names, mark="old"):
    folder.mkdir(exist_ok=True)
    (folder / "multirun.yaml").write_text(mark)
    for name in names:
        make_run(folder / name, mark)


@cache
def composed(overrides):
    """Without a folder, so that Hydra composes once for all."""
    return hydra_compose.compose([*SMALL, *overrides])[0]


def begin(folder, *overrides, sweep=False):
    """What rank 0 does before Hydra: where the run is to be, and whether it goes on there."""
    raw = composed(overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra_compose, "run_folder", lambda arguments: (folder, True))
        return job_folder([f"{FOLDER_KEYS[sweep]}={folder}"], raw, sweep, WORLD, None)


def refused(folder, *overrides, sweep=False):
    before = files(folder)
    with pytest.raises(UserError) as error:
        begin(folder, *overrides, sweep=sweep)
    assert files(folder) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def set_aside(folder):
    make_run(folder)
    (folder / run_files.MARK).touch()


SIGNS = {
    "checkpoints/round_000003.pt": lambda folder: CheckpointFolder(folder).save(make(3)),
    "model.pt": lambda folder: (folder / "model.pt").write_text(""),
    "model_best.pt": lambda folder: (folder / "model_best.pt").write_text(""),
    "results.csv": lambda folder: (folder / "results.csv").write_text("job,epoch\n0,1\n"),
    "config.yaml": lambda folder: (folder / "config.yaml").write_text(configured("old")),
    "multirun.yaml": lambda folder: (folder / "multirun.yaml").write_text(""),
    "replaced": lambda folder: set_aside(folder / "replaced"),
    "replaced.partial": lambda folder: set_aside(folder / "replaced.partial"),
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
    raw, _ = hydra_compose.compose(arguments)
    OmegaConf.save(_resolved(raw, WORLD), tmp_path / "config.yaml")
    assert begin(tmp_path, "resume=auto", "overwrite=true") == (tmp_path, True)  # the same one goes on
    (tmp_path / "tensorboard").rename(tmp_path / "replaced.partial")  # unless it was being replaced
    (tmp_path / "replaced.partial" / run_files.MARK).touch()
    assert begin(tmp_path, "resume=auto", "overwrite=true") == (tmp_path, False)
    assert "holds a run" in refused(tmp_path, "resume=auto")


def test_resume_auto_finds_the_run_of_the_same_training(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    run = Path("outputs/pipar/yesterday")
    make_run(run)
    OmegaConf.save(_resolved(hydra_compose.compose(SMALL)[0], WORLD), run / "config.yaml")

    def begun(*overrides):
        arguments = [*SMALL, "resume=auto", *overrides]
        return job_folder(arguments, *hydra_compose.compose(arguments), WORLD, None)

    assert begun() == (run, True)
    assert not caplog.messages
    folder, goes_on = begun("optimizer.lr=0.05")  # another training: it begins anew
    assert not goes_on
    assert not folder.exists()
    assert caplog.messages == ["resume=auto: nothing to resume in outputs/pipar"]
    assert begun("until.test_accuracy=0.5") == (run, True)  # the same one, to another end
    line = f"resume=auto: another training is in {run}: optimizer.lr differs"
    with pytest.raises(UserError, match=f"^{line}$"):
        begun("optimizer.lr=0.05", f"hydra.run.dir={run}")


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
    (tmp_path / "model_best.pt").write_text("failed")
    replacing.set_aside(tmp_path, sweep=False)  # it got nowhere: the older stays
    assert files(tmp_path) == older
    make_run(tmp_path, "newer", rounds=(1,), rows=0, model=False)  # killed before the older had been removed
    newer = {name: content for name, content in files(tmp_path).items() if not name.startswith("checkpoints")}
    replacing.set_aside(tmp_path, sweep=False)
    assert (tmp_path / "replaced" / "config.yaml").read_text() == configured("newer")
    assert [path.name for path in CheckpointFolder(tmp_path / "replaced").files()] == ["round_000001.pt"]
    assert newer.keys() >= files(tmp_path).keys() - {"checkpoints/round_000001.pt"} - {"model.pt"}
    replacing.release(tmp_path, tmp_path)
    assert files(tmp_path) == {}


def test_the_jobs_of_an_older_sweep_go_one_by_one_and_nothing_else_does(tmp_path):
    make_sweep(tmp_path, "0_a", "1_b", "2_c")
    (tmp_path / "1_b" / "notes.txt").write_text("mine")
    replacing.set_aside(tmp_path, sweep=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1_b", "replaced"]
    make_sweep(tmp_path, "0_a", "1_b", mark="new")
    replacing.release(tmp_path, tmp_path / "0_a")
    assert names(tmp_path / "replaced") == ["1_b", "2_c", "multirun.yaml"]
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
    with disk.alone_in(tmp_path / "1_b"):
        assert "another run is writing there" in refused(tmp_path, "overwrite=true", sweep=True)
        with pytest.raises(UserError, match="another run is writing there"):
            replacing.set_aside(tmp_path, sweep=True)
    assert files(tmp_path) == before


def test_a_checkpoint_that_was_moved_aside_is_found(tmp_path):
    make_run(tmp_path)
    settings = [*SMALL, "checkpoint.every=1"]
    plan = make_plan(hydra_compose.compose(settings)[0], 3, Path("nowhere"), True)
    for number in (3, 4):
        own = make(number)
        own.settings = plan.checkpoints.same
        CheckpointFolder(tmp_path, keep=9).save(own)
    for name in (".", "checkpoints", "checkpoints/round_000003.pt"):
        resume = replace(plan.checkpoints, resume=str(tmp_path / name))
        plan = replace(plan, checkpoints=resume)
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
    plan = make_plan(hydra_compose.compose([*SMALL, "resume=auto"])[0], 3, Path("nowhere"), True)
    for path in CheckpointFolder(tmp_path).files():
        path.write_bytes(b"damaged")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"round_000004.pt: not a whole checkpoint: .*; no other can be read"):
        resuming.find(plan, tmp_path, goes_on=True)
    assert files(tmp_path) == before


def test_the_content_of_a_partition_file_identifies_a_training(tmp_path):
    parts = [list(range(20)), list(range(20, 40))]
    for name, content in (("a", parts), ("b", parts), ("c", parts[::-1])):
        (tmp_path / f"{name}.json").write_text(str(content))
    settings, configs = {}, {}
    for name in "abc":
        arguments = [*SMALL, "partition=file", f"partition.path={tmp_path / name}.json"]
        raw, _ = hydra_compose.compose(arguments)
        settings[name] = make_plan(raw, 3, Path("nowhere"), True).checkpoints.same
        configs[name] = _resolved(raw, WORLD)
    assert settings["a"] == settings["b"] != settings["c"]
    (tmp_path / "run").mkdir()
    OmegaConf.save(configs["a"], tmp_path / "run" / "config.yaml")
    different = {name: resuming.difference(config, tmp_path / "run") for name, config in configs.items()}
    assert different == {"a": None, "b": None, "c": "partition.content"}


@pytest.mark.parametrize("name", ["config.yaml", "replaced/mine.txt", "replaced.partial/mine.txt"])
@pytest.mark.parametrize("overrides", [(), ("resume=auto",), ("overwrite=true",)], ids=str)
def test_files_of_the_users_that_a_run_would_take_for_its_own_are_refused(tmp_path, name, overrides):
    """Such a config.yaml was once overwritten with resume=auto, and such a folder removed."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert "not of a run: choose another folder" in refused(tmp_path, *overrides)


def test_a_folder_of_the_users_is_not_removed_for_its_name(tmp_path):
    (tmp_path / "replaced").mkdir()
    (tmp_path / "replaced" / "mine.txt").write_text("mine")
    replacing.release(tmp_path, tmp_path)
    assert (tmp_path / "replaced" / "mine.txt").exists()


def test_what_has_not_trained_a_round_replaces_nothing(tmp_path):
    told = []
    folder = CheckpointFolder(tmp_path, on_saved=lambda: told.append(1))
    folder.save(make(0))
    assert told == []
    folder.save(make(1))
    assert told == [1]
