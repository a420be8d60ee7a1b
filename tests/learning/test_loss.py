"""What a loss divides by, and which losses are refused."""

import pytest
import torch

from pipar_rpc.base.errors import UserError
from pipar_rpc.learning import Criterion, LossSpec
from pipar_rpc.learning.loss import check_loss

LABELS = torch.tensor([0, 2, 1, 2])


def make_lambda():
    return lambda outputs, labels: outputs.sum(dim=1)


def test_what_torchs_losses_count():
    assert Criterion(LossSpec()).count(LABELS) == 4
    assert Criterion(LossSpec(args={"ignore_index": 2})).count(LABELS) == 2
    assert Criterion(LossSpec(args={"weight": [1, 2, 4]})).count(LABELS) == 11
    assert Criterion(LossSpec(args={"weight": [1, 2, 4], "ignore_index": 2})).count(LABELS) == 3
    assert Criterion(LossSpec("mse")).count(torch.zeros(5, 7)) == 5
    assert Criterion(LossSpec()).count(torch.rand(4, 3)) == 4  # probabilities of the classes


def test_tokens_count_one_by_one():
    tokens = torch.tensor([[0, 2, 2], [1, 0, 2]])
    criterion = Criterion(LossSpec(args={"ignore_index": 2}))
    assert criterion.count(tokens) == criterion.num_classified(tokens) == 3
    outputs = torch.zeros(2, 3, 3)
    outputs[:, 0] = 1
    assert criterion.num_correct(outputs, tokens) == 2


def test_labels_that_are_no_classes_have_no_accuracy():
    criterion = Criterion(LossSpec("mse"))
    assert criterion.num_classified(torch.rand(4, 3)) == 0
    assert criterion.num_correct(torch.rand(4, 3), torch.rand(4, 3)) == 0


def test_numbers_that_are_compared_are_no_classes_even_if_they_are_integers():
    criterion, counts = Criterion(LossSpec("mse")), torch.tensor([3, 5])
    assert criterion.num_classified(counts) == criterion.num_correct(torch.rand(2, 6), counts) == 0


@pytest.mark.parametrize(("outputs", "labels"), [((3, 1), (3,)), ((2, 2), (2,)), ((4,), (4, 1))])
@pytest.mark.parametrize("name", ["mse", "l1", "huber"])
def test_labels_of_another_shape_are_not_broadcast(name, outputs, labels):
    """Torch warns and compares every output with every label, so that N would change what is minimised."""
    with pytest.raises(UserError, match=rf"^loss={name} cannot take outputs of shape .*Using a target size"):
        check_loss(LossSpec(name), torch.zeros(outputs), torch.zeros(labels))


def test_a_dotted_name_may_need_further_objects():
    """Arguments with a _target_ of their own are made first."""
    args = {"weight": {"_target_": "torch.tensor", "_args_": [[1.0, 2.0, 4.0]]}}
    criterion = Criterion(LossSpec("custom", "torch.nn.CrossEntropyLoss", args))
    assert criterion.count(LABELS) == 11


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LossSpec(args={"smoothing": 0.1}), "loss.args.smoothing: no such argument of cross_entropy"),
        (LossSpec(args={"reduction": "sum"}), "loss.args.reduction=sum: must be mean"),
        (LossSpec(args={"weight": [1, 2]}), "loss=cross_entropy cannot take outputs of shape (4, 3)"),
        (LossSpec("custom", "torch.nn.Nope"), "loss._target_=torch.nn.Nope: must be the dotted name"),
        (LossSpec("custom", "builtins.dict"), "must be a class or function that makes a loss, not dict"),
        (LossSpec("custom", f"{__name__}:make_lambda"), "must return a scalar tensor"),
        (LossSpec("mse"), "loss=mse cannot take outputs of shape (4, 3) and labels of shape (4,)"),
    ],
)
def test_wrong_losses_give_one_line(spec, message):
    with pytest.raises(UserError) as caught:
        check_loss(spec, torch.zeros(4, 3), LABELS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_losses_move_to_the_device_that_computes():
    criterion = Criterion(LossSpec(args={"weight": [1, 2, 4]}), torch.device("meta"))
    loss = criterion(torch.empty(4, 3, device="meta"), torch.empty(4, dtype=torch.int64, device="meta"))
    assert loss.is_meta
