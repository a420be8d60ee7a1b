"""Killed and resumed is uninterrupted, bit for bit; whatever else a checkpoint must withstand."""

import signal

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipar_rpc import __version__, checkpoint, composition
from pipar_rpc.checkpoint import Checkpoint, CheckpointFolder
from pipar_rpc.errors import UserError
from pipar_rpc.storage import alone_in

from .conftest import SMALL, sweep_of
from .test_rpc import rows_of

EPOCHS = 3
# Rounds of about 0.2 s, so that there is time to be killed.
BASE = (
    *(option for option in SMALL if not option.startswith("epochs")),
    *(f"epochs={EPOCHS}", "aggregation.every=1", "network.uplink_mbps=1", "pipeline.num_micro_batches=3"),
    *("optimizer.weight_decay=0.01", "devices.overrides.2.batch_size=4", "checkpoint.keep=20"),
)
JOBS = {
    "fl": ("strategy=fl", "network.uplink_mbps=20"),
    "sl": ("strategy=sl", "fault.leave.1=4"),
    "shared": ("strategy=sfl", "sfl.server=shared", "fault.leave.1=5"),
    "pipar": ("model=mobilenet_small", "model.norm=group", "pipeline.split_point=2"),  # with dropout
    "never_averaged": ("aggregation.every=0",),
}


def run(processes, *overrides):
    done = processes.torchrun(3, *overrides)
    assert done.code == 0, done.err
    return done


def assert_same(first, second):
    one, two = (torch.load(path / "model.pt", weights_only=True) for path in (first, second))
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


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
    own = {name: dict(option.split("=", 1) for option in (*BASE, *more)) for name, more in JOBS.items()}
    same = ("data=", "network=", "epochs=")
    sweep = sweep_of(
        module_processes.directory,
        {
            name: tuple(f"{k}={v}" for k, v in values.items() if not f"{k}=".startswith(same))
            for name, values in own.items()
        },
    )
    sweep += [option for option in BASE if option.startswith(same)]
    done = module_processes.torchrun(3, *sweep, "hydra.sweep.dir=whole", timeout=200)
    assert done.code == 0, done.err
    for index, name in enumerate(JOBS):
        number = 1 if name == "never_averaged" else 6  # inside the second epoch
        server, *devices = module_processes.ranks(3, *sweep, "resume=auto")
        module_processes.wait_for(f"outputs/*/*/{index}_*/checkpoints/round_{number:06}.pt")
        server.send_signal(signal.SIGKILL)
        for process in (server, *devices):
            process.wait(20)
    done = module_processes.torchrun(3, *sweep, "resume=auto")
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
    assert [row["epoch"] for row in rows_of(killed[name])] == ["1", "2", "3"]
    curves, uninterrupted = steps(killed[name]), steps(whole[name])
    for tag, found in curves.items():
        assert found == sorted(set(found)), tag
    for tag in ("train/loss", "time/epoch_s", "accuracy/test", "hparam/train_loss"):
        assert curves[tag] == uninterrupted[tag]
    assert curves["train/loss_by_iteration"][-1] == uninterrupted["train/loss_by_iteration"][-1]


def test_a_run_may_be_continued_elsewhere_with_more_epochs_and_other_cuts(processes):
    """The checkpoint stays as it is; and where the network is cut does not matter to the weights.

    The emulated network's time goes on, too.
    """
    more = (*BASE, "model.norm=group", "pipeline.num_micro_batches=1", "network.uplink_mbps=0.4")
    sweep = ("--multirun", "epochs=1,3,3", "hydra.sweep.dir=first", "hydra.sweep.subdir=${epochs}/job")
    done = processes.torchrun(3, *more, *sweep)
    assert done.code == 1
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
    one, two = (torch.load(path / "model.pt") for path in (second, whole))
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=1e-5)


def test_nothing_is_left_of_a_run_that_has_ended(processes):
    run(processes, *BASE)
    done = run(processes, *BASE, "resume=auto")
    assert "nothing is left to train" in done.out
    (path,) = processes.directory.glob("outputs/*/*")
    assert len(rows_of(path)) == EPOCHS
    done = run(processes, *BASE, "resume=auto", "optimizer.lr=0.05")  # another training: it begins anew
    assert "resume=auto: nothing to resume in outputs/pipar" in done.out + done.err
    assert len(list(processes.directory.glob("outputs/*/*"))) == 2
    chosen = processes.torchrun(3, *BASE, "resume=auto", "optimizer.lr=0.1", f"hydra.run.dir={path}")
    assert chosen.code == 1
    assert f"error: resume=auto: another training is in {path}: optimizer.lr differs" in chosen.err


def make(number=3, value=1.0):
    weights = {"a": torch.full((1000,), value)}
    settings = {"seed": 0, "model.name": "vgg5", "partition.sizes": None}
    row = {"epoch": 1, "loss": 0.5, "device_uplink_mbps": (1.0, None), "strategy": "pipar"}
    return Checkpoint(number, 2, 1, [weights], [{}, weights], [(1, 8), (2, 8)], settings, [row])


def test_what_is_written_is_read(tmp_path):
    checkpoint.write(make(), tmp_path / "c.pt")
    found = checkpoint.read(tmp_path / "c.pt")
    assert torch.equal(found.networks[0]["a"], make().networks[0]["a"])
    for name in ("round", "epoch", "iteration", "cuts", "settings", "rows"):
        assert getattr(found, name) == getattr(make(), name)
    assert list(tmp_path.iterdir()) == [tmp_path / "c.pt"]


def test_checkpoints_of_other_versions_are_told_apart(tmp_path):
    """One without the elapsed time is from before; one with more in it is from later."""
    path = tmp_path / "c.pt"
    checkpoint.write(make(), path)
    content = torch.load(path)
    assert content["version"] == __version__
    other = f"{path}: not a checkpoint of this version of pipar_rpc, {__version__}, but of another version"
    for changed, line in (
        ({"elapsed_s": None}, None),
        ({"spin": 0.5, "version": "9.8"}, f"{other}, 9.8"),
        ({"format": "pipar_rpc checkpoint 0", "version": None}, other),
    ):
        own = {key: value for key, value in (content | changed).items() if value is not None}
        of = {key: value for key, value in own.items() if key not in {"format", "version", "digest"}}
        torch.save(own | {"digest": checkpoint._digest(of)}, path)
        if line is None:
            assert checkpoint.read(path).elapsed_s == 0
            continue
        with pytest.raises(UserError) as error:
            checkpoint.read(path)
        assert str(error.value) == line


def test_what_a_killed_writer_left_is_removed(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(make(4))
    (folder.path / ".partial").write_bytes(b"half")
    folder.save(make(6))
    assert [path.name for path in sorted(folder.path.iterdir())] == ["round_000004.pt", "round_000006.pt"]


def test_those_of_another_run_go_with_the_first_that_is_written(tmp_path):
    """Their rounds may be larger."""
    for number in (8, 9):
        CheckpointFolder(tmp_path, keep=2).save(make(number))
    folder = CheckpointFolder(tmp_path, keep=2, in_place=False)
    folder.save(make(4))
    folder.save(make(5))
    assert [path.name for path in folder.files()] == ["round_000005.pt", "round_000004.pt"]


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    refused = pytest.raises(UserError, match="another run is writing there")
    with alone_in(tmp_path), refused, alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_the_last_ones_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for number in range(5):
        folder.save(make(number))
    assert [path.name for path in folder.files()] == ["round_000004.pt", "round_000003.pt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "foreign", "code", "bit"])
def test_a_damaged_one_is_one_line_and_the_one_before_it_is_used(tmp_path, caplog, damage):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(make(1))
    path = folder.save(make(2))
    content = path.read_bytes()
    if damage == "foreign":
        torch.save({"epoch": 3, "state_dict": {}}, path)
    elif damage == "code":
        torch.save({"format": checkpoint.FORMAT, "round": print}, path)
    elif damage == "bit":
        place = content.index(b"\x00\x00\x80\x3f" * 100) + 200  # inside a tensor of ones
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"not one\n"}[damage])
    with pytest.raises(UserError) as error:
        checkpoint.read(path)
    assert str(error.value).startswith(f"{path}: not a ")
    assert "\n" not in str(error.value)
    assert folder.latest().round == 1
    assert "the one before it is used" in caplog.text


def test_a_full_disk_leaves_the_one_before_it(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(make(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.save(make(2))
    assert [path.name for path in folder.path.iterdir()] == ["round_000001.pt"]


@pytest.mark.parametrize("folder", ["plain", "with space", "it's", "a=b,c", "back\\slash", "$x {y} [z]"])
def test_any_folder_can_be_gone_on_in(tmp_path, monkeypatch, folder):
    seen = []
    monkeypatch.setattr("sys.argv", ["pipar_rpc"])
    monkeypatch.chdir(tmp_path)
    composition.run_jobs(lambda raw, path, number: seen.append((raw, path)), tmp_path / folder)
    ((raw, path),) = seen
    assert path == tmp_path / folder
    assert OmegaConf.is_config(raw)
