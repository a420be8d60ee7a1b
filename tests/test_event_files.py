"""TensorBoard after a training was killed and resumed: every curve as if nothing had happened."""

import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from pipar_rpc.checkpoint import Checkpoint
from pipar_rpc.outputs import Outputs

PER_EPOCH = 3  # iterations; two seconds and one round


def row(epoch):
    return {
        "epoch": epoch,
        "train_loss": float(epoch),
        "device_uplink_mbps": (1.0, None),
        "strategy": "pipar",
    }


def saved(epoch):
    """At the end of an epoch."""
    rows = [row(number) for number in range(1, epoch + 1)]
    done, second = epoch * PER_EPOCH, epoch * 2 + 0.5
    return Checkpoint(epoch, epoch + 1, 0, [], [], [], {}, rows, second, done)


def train(outputs, first, last):
    """As a job does it: what belongs to an epoch's checkpoint before that is written, its row afterwards."""
    outputs.picture("data/partition", Figure())
    outputs.text("selector/candidates", "P N")
    for epoch in range(first, last + 1):
        iterations = [0.5] * PER_EPOCH
        outputs.curve("train/loss_by_iteration", iterations, (epoch - 1) * PER_EPOCH + 1)
        outputs.curve("network_by_second/uplink_mbps/device1", [1.0, 2.0], (epoch - 1) * 2)
        outputs.event(f"device1 did something in round {epoch}", epoch)
        if epoch == 1:
            outputs.picture("timeline/iteration", Figure())
        yield epoch
        outputs.add(row(epoch))


def tags(events):
    events.Reload()
    return {tag: [event.step for event in events.Tensors(tag)] for tag in events.Tags()["tensors"]}


def kill(outputs):
    """Nothing is written any more."""
    outputs._sinks[0].close()


def whole(folder, last):
    folder.mkdir(exist_ok=True)
    outputs = Outputs(folder, None, False)
    for _ in train(outputs, 1, last):
        pass
    outputs.close()
    return tags(EventAccumulator(str(folder / "tensorboard")))


@pytest.fixture
def killed(tmp_path):
    """Killed after the third epoch's checkpoint was written; returns the folder and who looked at it."""
    (tmp_path / "killed").mkdir()
    outputs = Outputs(tmp_path / "killed", None, False)
    looking = EventAccumulator(str(tmp_path / "killed" / "tensorboard"))
    for epoch in train(outputs, 1, 4):
        if epoch == 4:
            break
    kill(outputs)
    assert tags(looking)["train/loss_by_iteration"][-1] == 4 * PER_EPOCH
    (path,) = (tmp_path / "killed" / "tensorboard").iterdir()
    with path.open("ab") as file:
        file.write(path.read_bytes()[:30])  # it was writing
    return tmp_path / "killed", looking


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_every_curve_is_as_if_nothing_had_happened(tmp_path, killed, epoch):
    folder, looking = killed
    for number in (epoch, epoch + 1):  # killed once more on its way
        outputs = Outputs(folder, saved(number), True)
        for _ in train(outputs, number + 1, 5):
            if number == epoch:
                kill(outputs)
                break
    outputs.close()
    once = whole(tmp_path / "whole", 5)
    assert tags(EventAccumulator(str(folder / "tensorboard"))) == once
    assert tags(looking) == once  # a TensorBoard that was open all the time


def test_a_training_that_begins_anew_leaves_nothing_of_what_had_no_checkpoint(tmp_path, killed):
    folder, looking = killed
    once = whole(tmp_path / "whole", 2)
    assert whole(folder, 2) == once
    assert tags(looking) == once


def test_a_copy_that_was_killed_is_made_again(tmp_path, killed, monkeypatch):
    """The copy is there, and the files that were copied still have their content."""
    folder, _ = killed
    before = {path: path.read_bytes() for path in (folder / "tensorboard").iterdir()}
    Outputs(folder, saved(2), True).close()
    for path, content in before.items():
        path.write_bytes(content)
    outputs = Outputs(folder, saved(2), True)
    for _ in train(outputs, 3, 5):
        pass
    outputs.close()
    assert tags(EventAccumulator(str(folder / "tensorboard"))) == whole(tmp_path / "whole", 5)
