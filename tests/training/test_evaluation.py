"""What is measured on held-out data, against one pass over all of it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.data import Images, Transform
from pipar_rpc.learning import Criterion, LossSpec
from pipar_rpc.learning.metrics import Metrics, MetricSpec
from pipar_rpc.privacy.noise import PrivacyNoise
from pipar_rpc.privacy.registry import build_cut_privacy
from pipar_rpc.privacy.spec import ActivationNoiseSpec, PrivacySpec
from pipar_rpc.training.evaluation import BATCH_SIZE, Evaluator
from tests.support.loops import CPU

COUNT = 2 * BATCH_SIZE + 17


def evaluator(network, labels, spec, metrics=None):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (len(labels), 1, 2, 2), dtype=torch.uint8)
    transform, seen = Transform((0.5,), (0.25,)), []
    made = Evaluator(
        network, {"test": Images(images, labels)}, transform, CPU, Criterion(spec), metrics, seen.append
    )
    return made, network.eval()(transform.normalise(images)).detach(), seen


def linear(classes):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, classes))


def test_batches_of_a_set_make_up_the_whole_set():
    labels, network = torch.arange(COUNT) % 3, linear(3)
    spec = LossSpec(args={"weight": [1, 2, 5], "ignore_index": 1})
    metrics = Metrics({"mean": MetricSpec(f"{__name__}:Mean")})
    made, outputs, seen = evaluator(network, labels, spec, metrics)
    found = made.measure(network.state_dict(), "test")
    weight = torch.tensor([1.0, 2.0, 5.0])
    assert found.loss == pytest.approx(
        float(F.cross_entropy(outputs, labels, weight, ignore_index=1)), rel=1e-5
    )
    counted = labels != 1
    assert found.accuracy == float((outputs.argmax(dim=1) == labels)[counted].double().mean())
    assert found.metrics == {"mean": pytest.approx(float(outputs.mean()), rel=1e-4)}
    pairs = zip(labels.tolist(), outputs.argmax(dim=1).tolist(), strict=True)
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for true, predicted in pairs:
        expected[true, predicted] += 1
    assert torch.equal(found.confusion, expected)
    assert seen == [BATCH_SIZE, BATCH_SIZE, 17]
    assert made.num_samples("test", "val") == COUNT
    assert made.measure(network.state_dict(), "val") is None


class Mean:
    def reset(self):
        self.sums = []

    def update(self, outputs, labels):
        self.sums += outputs.flatten().tolist()

    def compute(self):
        return sum(self.sums) / len(self.sums)


def test_other_labels_have_a_loss_and_no_accuracy():
    labels, network = torch.rand(COUNT, 2), linear(2)
    made, outputs, _ = evaluator(network, labels, LossSpec("mse"))
    found = made.measure(network.state_dict(), "test")
    assert found.loss == pytest.approx(float(F.mse_loss(outputs, labels)), rel=1e-5)
    assert (found.accuracy, found.confusion, found.metrics) == (None, None, {})


def test_a_network_may_be_evaluated_with_its_codec_at_the_cut():
    labels = torch.arange(COUNT) % 3
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 3))
    made, outputs, _ = evaluator(network, labels, LossSpec())
    coding = Coding(CodingSpec(CodecSpec("topk", args={"ratio": 0.25}), CodecSpec("topk")))
    found = made.measure(network.state_dict(), "test", (2, 0, coding))
    hidden = network[:2](made_inputs(labels)).detach()
    kept = torch.zeros_like(hidden)
    places = hidden.abs().topk(2, dim=1).indices
    kept.scatter_(1, places, hidden.gather(1, places))
    expected = network[2](kept).detach()
    assert found.accuracy == float((expected.argmax(dim=1) == labels).double().mean())
    assert found.loss == pytest.approx(float(F.cross_entropy(expected, labels)), rel=1e-5)
    assert found.loss != pytest.approx(float(F.cross_entropy(outputs, labels)), rel=1e-5)


def test_where_labels_stay_the_codec_is_at_both_cuts():
    labels = torch.arange(COUNT) % 3
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    made, _, _ = evaluator(network, labels, LossSpec())
    coding = Coding(CodingSpec(CodecSpec("topk", args={"ratio": 0.25}), CodecSpec("topk")))
    outputs = made_inputs(labels)
    for piece in (network[:2], network[2:3]):
        hidden = piece(outputs).detach()
        places = hidden.abs().topk(2, dim=1).indices
        outputs = torch.zeros_like(hidden).scatter_(1, places, hidden.gather(1, places))
    expected = F.cross_entropy(network[3](outputs), labels).detach()
    found = made.measure(network.state_dict(), "test", (2, 1, coding))
    assert found.loss == pytest.approx(float(expected), rel=1e-5)


def made_inputs(labels):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (len(labels), 1, 2, 2), dtype=torch.uint8)
    return Transform((0.5,), (0.25,)).normalise(images)


def test_a_network_may_be_evaluated_with_noise_at_the_cut():
    labels = torch.arange(COUNT) % 3
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Linear(8, 3))
    made, _, _ = evaluator(network, labels, LossSpec())
    spec = PrivacySpec(nopeek=1.0, activations=ActivationNoiseSpec(1.0, 0.5))
    cut = 2, 0, Coding(CodingSpec()), build_cut_privacy(spec, seed=7)
    noised, plain = (made.measure(network.state_dict(), "test", own) for own in (cut, None))
    assert noised.loss == made.measure(network.state_dict(), "test", cut).loss  # drawn alike
    noise, loss = PrivacyNoise(7, False, "activations", 0).gaussian_of_samples((BATCH_SIZE, 8), 0, 1, 0), 0.0
    images = made._sets["test"].read(torch.arange(COUNT), None)[0]
    hidden = network[:2](Transform((0.5,), (0.25,)).normalise(images)).detach()
    hidden = hidden / hidden.norm(dim=1, keepdim=True).clamp(min=1)
    for chosen in torch.arange(COUNT).split(BATCH_SIZE):
        outputs = network[2](hidden[chosen] + 0.5 * noise[: len(chosen)].float())
        loss += float(F.cross_entropy(outputs, labels[chosen], reduction="sum").detach())
    assert noised.loss == pytest.approx(loss / COUNT, rel=1e-5)
    assert noised.loss != plain.loss
