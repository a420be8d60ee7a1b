"""Checkpoints that are written while the training goes on: whole, one at a time, as things were."""

import threading
from types import SimpleNamespace

import pytest
import torch

from pipar_rpc.base.threads import open_pool
from pipar_rpc.checkpoints import file
from pipar_rpc.checkpoints.background import writing
from pipar_rpc.checkpoints.file import CheckpointFolder
from pipar_rpc.checkpoints.saving import Saver
from pipar_rpc.coordination.rounds import Position
from tests.support.checkpoints import make
from tests.support.configuration import plan

WAIT_S = 30.0


class Slow(CheckpointFolder):
    """Writes when it may; notes how many are being written at once."""

    def __init__(self, path, **more):
        super().__init__(path, **more)
        self.may, self.begun, self.at_once, self.most = threading.Event(), threading.Event(), 0, 0

    def save(self, checkpoint):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.begun.set()
        assert self.may.wait(WAIT_S)
        try:
            return super().save(checkpoint)
        finally:
            self.at_once -= 1


def names(folder):
    return [path.name for path in folder.files()]


def test_the_newest_complete_one_stays_until_the_next_is_complete(tmp_path):
    CheckpointFolder(tmp_path, keep=1).save(make(1))
    with writing(folder := Slow(tmp_path, keep=1)) as writer:
        writer.begin(make(2))
        assert folder.begun.wait(WAIT_S)
        assert names(folder) == ["round_000001.pt"]
        folder.may.set()
        assert writer.finish()
        assert names(folder) == ["round_000002.pt"]


def test_never_two_at_once(tmp_path):
    with writing(folder := Slow(tmp_path, keep=9)) as writer, open_pool("training") as training:
        writer.begin(make(1))
        assert folder.begun.wait(WAIT_S)
        second = training.submit(writer.begin, make(2))  # it waits for the first
        assert not second.done()
        folder.may.set()
        second.result(WAIT_S)
    assert folder.most == 1
    assert names(folder) == ["round_000002.pt", "round_000001.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_whatever_ends_a_job_what_is_being_written_is_completed(tmp_path, error):
    folder = Slow(tmp_path)

    def job():
        with writing(folder) as writer:
            writer.begin(make(3))
            assert folder.begun.wait(WAIT_S)
            folder.may.set()
            raise error

    with pytest.raises(error):
        job()
    assert names(folder) == ["round_000003.pt"]
    assert file.read(folder.files()[0]).round == 3


def test_one_that_cannot_be_written_is_one_line_and_the_training_goes_on(tmp_path, caplog, monkeypatch):
    saved = []
    folder = CheckpointFolder(tmp_path, on_saved=lambda: saved.append(names(folder)))

    def full(*_):
        raise OSError(28, "No space left on device")

    with writing(folder) as writer:
        writer.begin(make(1))
        assert writer.finish()
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            writer.begin(make(2))
            assert not writer.finish()
        writer.begin(make(3))
    assert [line for line in caplog.messages if "checkpoint" in line] == [
        "the checkpoint of round 2 could not be written: [Errno 28] No space left on device"
    ]
    assert names(folder) == ["round_000003.pt"]
    assert saved == [["round_000001.pt"], ["round_000003.pt"]]


def test_another_error_is_not_hidden(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    monkeypatch.setattr(folder, "save", lambda checkpoint: 1 / 0)
    with pytest.raises(ZeroDivisionError), writing(folder) as writer:
        writer.begin(make(1))


def test_no_more_than_so_many_bytes_are_kept_but_the_newest_always(tmp_path):
    size = CheckpointFolder(tmp_path / "one").save(make(1)).stat().st_size
    for most, expected in ((0.5, 1), (1.5, 1), (2.5, 2), (9.0, 3)):
        folder = CheckpointFolder(tmp_path / str(most), keep=3, most_bytes=most * size)
        for number in range(1, 6):
            folder.save(make(number))
        assert len(names(folder)) == expected, most
        assert names(folder)[0] == "round_000005.pt"


class Training:
    """What a saver sees of a training: one device, whose weights and momentum change in place."""

    def __init__(self, folder, *options):
        self.weights, self.momentum = torch.zeros(9), torch.zeros(9)
        half = SimpleNamespace(optimizer_state=lambda: {"a/momentum": self.momentum.clone()})
        self.handles = [SimpleNamespace(half=half, iterations=4)]
        self.membership = SimpleNamespace(everyone=self.handles, round=0)
        self.plan, self.folder = plan(*options), folder

    def rule_state(self):
        return {}

    def optimizer_states(self, shared_half):
        return [handle.half.optimizer_state() for handle in self.handles]

    def rounds(self, number, pause=lambda: None):
        best, ledger = SimpleNamespace(state={}), SimpleNamespace(state=list)
        group, rows = SimpleNamespace(returned=list), [{"epoch": 1}]
        with writing(self.folder) as writer:
            saver = Saver(writer, self, group, best, ledger, 0.0)
            for self.membership.round in range(1, number + 1):
                self.weights += 1
                self.momentum += 1
                saver.after_round(Position(1, self.membership.round), {"a": self.weights}, self.plan, rows)
                rows[0]["epoch"] += 1
                pause()
            return saver


def test_a_checkpoint_is_of_its_round_whatever_happens_while_it_is_written(tmp_path):
    folder = Slow(tmp_path, keep=9)
    training = Training(folder)
    with open_pool("training") as pool:
        done = pool.submit(training.rounds, 2)  # the second waits for the first, which waits for us
        assert folder.begun.wait(WAIT_S)
        while training.membership.round < 2:
            threading.Event().wait(0.01)
        training.weights += 100
        folder.may.set()
        done.result(WAIT_S)
    first = file.read(folder.path / "round_000001.pt")
    assert first.networks[0]["a"].tolist() == [1.0] * 9
    assert first.optimizers[0]["a/momentum"].tolist() == [1.0] * 9
    assert first.rows == [{"epoch": 1}]


@pytest.mark.parametrize(
    ("options", "minutes", "saved"),
    [
        ((), 0, [1, 2, 3, 4, 5, 6]),
        (("checkpoint.every=2",), 0, [2, 4, 6]),
        (("checkpoint.minutes=3",), 2, [3, 5]),
        (("checkpoint.every=3", "checkpoint.minutes=1"), 2, [3, 6]),
        (("checkpoint.every=0", "checkpoint.minutes=1"), 2, []),
    ],
)
def test_it_is_due_after_so_many_rounds_but_not_before_so_many_minutes(
    tmp_path, monkeypatch, options, minutes, saved
):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("pipar_rpc.checkpoints.saving.time", clock)
    training = Training(CheckpointFolder(tmp_path, keep=9), *options)

    def pass_time():
        now[0] += 60 * minutes

    saver = training.rounds(6, pass_time)
    assert sorted(file.read(path).round for path in training.folder.files()) == saved
    assert saver.drain_wait_s(training.plan) == (0.0 if "checkpoint.every=0" not in options else None)


def test_the_time_that_training_waits_is_counted_once_and_emulated(tmp_path, monkeypatch):
    training = Training(folder := Slow(tmp_path), "testbed=raspberry_pi_3b", "testbed.time_scale=2")
    threading.Timer(0.2, folder.may.set).start()
    saver = training.rounds(2)  # the second has to wait for the first
    assert saver.drain_wait_s(training.plan) > 2 * 0.1
    assert saver.drain_wait_s(training.plan) == 0
