"""Metrics of held-out data by dotted name."""

import pytest
import torch

from pipar_rpc.base.errors import UserError
from pipar_rpc.learning.metrics import Metrics, MetricSpec

F1 = MetricSpec("torchmetrics.classification.MulticlassF1Score", {"num_classes": 3, "average": "macro"})


class Largest:
    """The largest output of all."""

    def reset(self):
        self.value = -1.0

    def update(self, outputs, labels):
        if labels.dim() > 1:
            raise ValueError("one label for each\nsample")
        self.value = max(self.value, float(outputs.max()))

    def compute(self):
        return self.value


OWN = MetricSpec(f"{__name__}:Largest")


def test_metrics_see_all_batches_of_a_set_and_no_others():
    metrics = Metrics({"f1": F1, "largest": OWN})
    for _ in range(2):
        metrics.reset()
        metrics.update(torch.eye(3), torch.tensor([0, 1, 2]))
        metrics.update(torch.eye(3) * 2, torch.tensor([0, 1, 1]))
        assert metrics.compute() == {
            "f1": pytest.approx((1 + 0.8 + 2 / 3) / 3),
            "largest": 2.0,
        }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MetricSpec("torchmetrics.Nope"), "metrics.it._target_=torchmetrics.Nope: must be the dotted name"),
        (MetricSpec("builtins.dict"), "must be a class with the methods reset, update and compute"),
        (MetricSpec(F1.target, {"num_clases": 3}), f"metrics.it._target_={F1.target} failed: "),
    ],
)
def test_wrong_metrics_give_one_line(spec, message):
    with pytest.raises(UserError) as caught:
        Metrics({"it": spec})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metrics_are_tried_before_anything_starts():
    outputs, labels = torch.zeros(2, 3), torch.tensor([0, 2])
    Metrics({"f1": F1}).check(outputs, labels)
    confusion = MetricSpec("torchmetrics.classification.MulticlassConfusionMatrix", {"num_classes": 3})
    with pytest.raises(
        UserError, match=r"^metrics\.it\._target_=.*ConfusionMatrix failed: ValueError: only one"
    ):
        Metrics({"it": confusion}).check(outputs, labels)
    with pytest.raises(UserError, match=r"^metrics\.it\._target_=.*Largest failed: ValueError: one label"):
        Metrics({"it": OWN}).check(outputs, torch.zeros(2, 2))


def test_a_metric_that_fails_gives_one_line():
    metrics = Metrics({"it": OWN})
    metrics.reset()
    with pytest.raises(
        UserError, match=r"^metrics\.it\._target_=.*Largest failed: ValueError: one label for each$"
    ):
        metrics.update(torch.zeros(2, 3), torch.zeros(2, 2))
