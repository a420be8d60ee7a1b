"""The best network so far, and its file."""

import pytest
import torch

from pipar_rpc.checkpoints import best_model
from pipar_rpc.checkpoints.best_model import BestModel, deciding_samples
from pipar_rpc.checkpoints.saving import needed_bytes
from pipar_rpc.models import ModelSpec, Norm, build_model, published, read_weights
from tests.support.configuration import plan
from tests.support.overrides import SMALL

SPEC = ModelSpec("mobilenet_small", Norm.group, channels=3, image_size=32, num_classes=10)


def network(value):
    return {key: torch.full_like(tensor, value) for key, tensor in build_model(SPEC).state_dict().items()}


def value_of(path):
    """The number that all tensors of a file consist of, read as `model.weights` reads it."""
    (value,) = {float(tensor.flatten()[0]) for tensor in read_weights(path, SPEC, True).values()}
    return value


def rows(*accuracies):
    return [{"epoch": n, "val_accuracy": value} for n, value in enumerate(accuracies, start=1)]


def train(path, accuracies, samples="val", state=None, start=0):
    """Epoch n has the network n."""
    best = BestModel(path, SPEC, samples, state or {})
    for epoch in range(start + 1, len(accuracies) + 1):
        best.consider(rows(*accuracies[:epoch]), network(epoch))
    return best


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [((0.5, 0.75, 0.25), 2), ((0.5, 0.5), 1), ((None, 0.5, None), 2), ((0.0,), 1), ((0.5, 0.25, 0.75), 3)],
)
def test_the_first_epoch_with_the_highest_accuracy_counts(tmp_path, accuracies, expected):
    best = train(tmp_path / "best.pt", accuracies)
    assert value_of(tmp_path / "best.pt") == expected
    assert float(next(iter(best.state.values())).flatten()[0]) == expected
    stored = torch.load(tmp_path / "best.pt", weights_only=True)
    assert stored.keys() == published(network(0.0), SPEC).keys()


def test_without_classes_the_lowest_loss_counts(tmp_path):
    best = BestModel(tmp_path / "best.pt", SPEC, "test", {})
    losses = [2.0, float("nan"), 1.5, 1.75]
    all_rows = [{"epoch": n, "test_accuracy": None, "test_loss": loss} for n, loss in enumerate(losses, 1)]
    for epoch in range(1, len(losses) + 1):
        best.consider(all_rows[:epoch], network(epoch))
    assert value_of(tmp_path / "best.pt") == 3


def test_where_nothing_is_evaluated_nothing_is_written(tmp_path):
    for samples, accuracies in ((None, (0.5,)), ("val", (None,)), ("test", (0.5,))):
        assert train(tmp_path / "best.pt", accuracies, samples).state == {}
    BestModel(tmp_path / "best.pt", SPEC, "val", {}).consider(rows(0.5), None)
    assert list(tmp_path.iterdir()) == []


def test_the_network_may_be_trained_further_in_place(tmp_path):
    best, state = BestModel(tmp_path / "best.pt", SPEC, "val", {}), network(1.0)
    best.consider(rows(0.5), state)
    for tensor in state.values():
        tensor.add_(1)
    assert {float(tensor.flatten()[0]) for tensor in best.state.values()} == {1.0}


def test_a_killed_training_that_goes_on_otherwise_ends_with_the_best_of_its_own_epochs(tmp_path):
    """Epoch 2 comes after the checkpoint; with another learning rate it is not the best once more."""
    path = tmp_path / "best.pt"
    saved = train(path, (0.5,)).state
    train(path, (0.5, 0.75), state=saved, start=1)
    assert value_of(path) == 2
    train(path, (0.5, 0.25), state=saved, start=1)
    assert value_of(path) == 1


def test_a_file_that_cannot_be_written_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    path = tmp_path / "best.pt"
    train(path, (0.5,))

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(best_model.torch, "save", full)
    train(path, (0.5, 0.75), start=1)
    monkeypatch.undo()
    assert "best.pt could not be written: " in caplog.text
    assert value_of(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize(
    ("overrides", "samples"),
    [
        ((), "val"),
        (("data.val_size=0",), "test"),
        (("enable_val=false",), "test"),
        (("enable_val=false", "enable_test=false"), None),
        (("enable_val=false", "enable_test=false", "enable_device_val=true"), None),
        (("data.val_size=0", "enable_test=false"), None),
    ],
    ids=str,
)
def test_validation_decides_and_test_samples_where_there_is_none(overrides, samples):
    """The room on the disk is that of the file, and of one more network in each checkpoint."""
    made, others = plan(*SMALL, *overrides), plan(*SMALL, "enable_val=false", "enable_test=false")
    assert deciding_samples(made) == samples
    more = (needed_bytes(made) - needed_bytes(others)) / made.network.num_bytes
    assert more == (0 if samples is None else 1 + made.checkpoints.keep + 1)
