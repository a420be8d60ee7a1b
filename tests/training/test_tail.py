"""The U-shape: the last units, the loss and the labels stay on the device, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipar_rpc.base.errors import LostError
from pipar_rpc.base.microbatch import Part, split_batch
from pipar_rpc.compression.coding import Coding, CodingSpec, Crossing
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.learning import LearningSpec, LossSpec, OptimizerSpec
from pipar_rpc.models import DropoutStreams, ModelSpec, Norm, build_model, seed_dropout
from pipar_rpc.timing.timeline import Stage, Timeline
from pipar_rpc.training.middle_half import MiddleHalf
from tests.support.coding import EXACT, coded
from tests.support.loops import CPU, LEARNING, OPTIMIZER, assert_close, make_batches, train_plain, train_split

pytestmark = pytest.mark.usefixtures("double_precision")

BATCH, UNITS = 10, 5
CUTS = [(point, tail) for tail in (1, 2, 4) for point in range(1, UNITS - tail + 1)]
CODECS = {
    "bf16": CodingSpec(CodecSpec("bf16"), CodecSpec("bf16")),
    "int8": CodingSpec(CodecSpec("int8"), CodecSpec("int8")),
    "int4": CodingSpec(CodecSpec("int4"), CodecSpec("int4")),
    "topk": CodingSpec(CodecSpec("topk", args={"ratio": 0.2, "random_share": 0.3}), CodecSpec("topk")),
    "one_way": CodingSpec(CodecSpec("int8")),
}


def make(norm=Norm.group):
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", norm, channels=3, image_size=8, num_classes=4))


def batches(count=24):
    """Two batches of 10 and one of 4."""
    return make_batches(count, image_size=8, num_classes=4, batch_size=BATCH)


@pytest.mark.parametrize("num_micro_batches", [1, 3, BATCH])
@pytest.mark.parametrize(("point", "tail"), CUTS)
def test_labels_on_the_device_equal_unsplit_training(point, tail, num_micro_batches):
    plain, plain_loss, plain_losses = train_plain(make(), batches())
    state, report, losses = train_split(make(), batches(), point, num_micro_batches, tail_units=tail)
    assert_close(state, plain, tolerance=1e-9)
    assert report.loss / report.samples == pytest.approx(plain_loss, abs=1e-9)
    assert losses == pytest.approx(plain_losses, abs=1e-9)
    assert report.stages[Stage.DEVICE_TAIL].count == report.stages[Stage.DEVICE_FORWARD].count


@pytest.mark.parametrize(("point", "tail"), [(1, 1), (2, 2)])
def test_batch_norm_equals_an_unsplit_loop_over_the_same_micro_batches(point, tail):
    plain, _, _ = train_plain(make(Norm.batch), batches(), 3)
    state, _, _ = train_split(make(Norm.batch), batches(), point, 3, tail_units=tail)
    assert_close(state, plain, tolerance=1e-9)


@pytest.mark.parametrize("learning", ["adamw", "counted"])
def test_optimisers_and_losses_equal_those_of_a_device_that_holds_everything(learning):
    spec = OptimizerSpec("adamw", lr=0.003, weight_decay=0.1, momentum=0)
    loss = LossSpec(args={"weight": [0.5, 3.0, 1.0, 2.0], "ignore_index": 2, "label_smoothing": 0.1})
    own = LearningSpec(spec, loss=loss if learning == "counted" else LossSpec())
    whole, plain, _ = train_split(make(), batches(), UNITS, 1, learning=own, epochs=2)
    for number in (1, 4, BATCH):
        state, report, _ = train_split(make(), batches(), 2, number, learning=own, epochs=2, tail_units=2)
        assert_close(state, whole, tolerance=1e-9)
        assert (report.correct, report.classified) == (plain.correct, plain.classified)


def test_dropout_masks_are_those_of_the_uncut_network():
    def network():
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout2d(0.3))
        second = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True))
        last = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.4, inplace=True), nn.Linear(8 * 36, 4))
        return seed_dropout(nn.Sequential(first, second, nn.Flatten(), last))

    plain, _, _ = train_plain(network(), batches(), 3)
    for point in (1, 2, 3):
        state, _, _ = train_split(network(), batches(), point, 3, tail_units=1)
        assert_close(state, plain, tolerance=1e-9)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1, 2), (4,), (3, 4)])
def test_parts_that_do_not_train(frozen):
    """Without anything to train before the last units, nothing comes down and no gradient goes up."""

    def network():
        own = make()
        for unit in frozen:
            own[unit].requires_grad_(False)
        return own

    plain, _, _ = train_plain(network(), batches())
    sizes = []
    state, _, _ = train_split(network(), batches(), 1, 3, tail_units=2, wrap=lambda own: Noting(own, sizes))
    assert_close(state, plain, tolerance=1e-9)
    gradients = [sent for _, sent, _ in sizes if sent.crossing is Crossing.SECOND]
    assert all((len(sent.payload) == 0) == (frozen == (0, 1, 2)) for sent in gradients)
    assert all((sent.answer_bytes is None) == (0 in frozen) for sent in gradients)


@pytest.mark.parametrize("number", [1, 3, BATCH])
@pytest.mark.parametrize("name", CODECS)
def test_codecs_equal_a_plain_loop_with_the_same_quantisers_at_both_cuts(name, number):
    network, data, coding = make(), batches(), Coding(CODECS[name], seed=0, rank=1)
    state, report, _ = train_split(
        copy.deepcopy(network), data, 2, number, coding=coding, tail_units=1, epochs=1
    )
    sgd, quantise = torch.optim.SGD(network.parameters(), **OPTIMIZER), Coding(CODECS[name], 0, 1)
    for iteration in range(len(data)):
        sgd.zero_grad()
        for part, x, y, _ in split_batch(*data.get(1, iteration), number, 1, iteration):
            quantised(network, quantise, part, x, y)
        sgd.step()
    assert_close(state, network.state_dict(), tolerance=1e-9)
    assert set(report.stages) >= {Stage.OUTPUT_DECODE, Stage.RETURN_ENCODE}


def quantised(network, coding, part, x, y):
    """Both passes, with what the codecs make of the values at both cuts; the noise of the two differs."""
    second = coding.before_tail()
    activation = network[:2](x)
    sent = coding.encode_activation(part, activation)
    leaf = coding.decode_activation(sent, CPU).clone().requires_grad_()
    output = network[2:4](leaf)
    out = second.encode_activation(part, output)
    tail = second.decode_activation(out, CPU).clone().requires_grad_()
    (F.cross_entropy(network[4:](tail), y) * part.weight).backward()
    back = second.encode_gradient(part, out, tail.grad)
    output.backward(second.decode_gradient(out, back, CPU))
    activation.backward(coding.decode_gradient(sent, coding.encode_gradient(part, sent, leaf.grad), CPU))


class Noting:
    """An exchange that notes what goes up and what comes back."""

    def __init__(self, exchange, sent):
        self._exchange, self._sent = exchange, sent

    def submit(self, part, activation, labels):
        future = self._exchange.submit(part, activation, labels)
        self._sent.append((labels, activation, future.result()))
        return future

    def finish(self, measure):
        self._exchange.finish(measure)

    def close(self):
        self._exchange.close()


def test_labels_never_cross():
    """All that is sent are places, activations and gradients; with other labels only gradients differ."""
    sent, others = [], []
    train_split(make(), batches(BATCH), 1, 2, tail_units=1, wrap=lambda own: Noting(own, sent))
    data = batches(BATCH)
    data._data.labels.add_(1).remainder_(4)
    train_split(make(), data, 1, 2, tail_units=1, wrap=lambda own: Noting(own, others))
    assert len(sent) == 4
    for (labels, up, down), (_, other, _) in zip(sent, others, strict=True):
        assert labels is None
        first = up.crossing is Crossing.FIRST
        assert up.payload.dtype == torch.uint8
        assert up._replace(payload=None) == other._replace(payload=None)
        assert torch.equal(up.payload, other.payload) == first
        assert (down.loss, down.correct) == (0, 0)


def middle(*layers):
    layers = nn.Sequential(*layers)
    return MiddleHalf(layers, LEARNING, DropoutStreams(layers, 0, 1), EXACT, CPU, Timeline())


def first_crossing(half, iteration, scale=1.0, index=1, count=1):
    replies = []
    part = Part(1, iteration, index, count, 1 / count)
    torch.manual_seed(iteration)
    activation = coded(scale * torch.randn(6, 4, requires_grad=True))
    half.process(part, activation._replace(crossing=Crossing.FIRST), None, replies.append)
    return part, replies[0].output


def second_crossing(half, part, output, scale=1.0):
    replies = []
    values = scale * torch.ones(output.shape)
    gradient = EXACT.encode_activation(part, values)._replace(gradient_bytes=6 * 4 * 8)
    half.process(part, gradient._replace(crossing=Crossing.SECOND), None, replies.append)
    return replies[0]


def test_a_mini_batch_whose_device_is_gone_leaves_nothing_behind():
    """With a shared half: statistics, graphs and gradients are those of the others alone."""
    torch.manual_seed(0)
    layers = [nn.BatchNorm1d(4), nn.Linear(4, 2)]
    alone, shared = middle(*copy.deepcopy(layers)), middle(*layers)
    other = shared.for_device(DropoutStreams(shared._layers, 0, 2), EXACT, Timeline())
    for half in (alone, shared):
        second_crossing(half, *first_crossing(half, 1))
    first_crossing(other, 2, index=1, count=2, scale=float("nan"))
    assert_close(shared.state(), alone.state(), 0)  # for an average
    first_crossing(other, 2, index=1, count=2)
    for half in (alone, shared):
        second_crossing(half, *first_crossing(half, 3))
    assert_close(shared.state(), alone.state(), 0)
    assert_close(shared.optimizer_state(), alone.optimizer_state(), 0)
    assert not shared._passed
    before = shared.snapshot()
    first_crossing(shared, 4)
    shared.restore(before)
    assert_close(shared.state(), alone.state(), 0)


def test_a_gradient_that_is_not_finite_is_undone():
    half = middle(nn.BatchNorm1d(4), nn.Linear(4, 2))
    second_crossing(half, *first_crossing(half, 1))
    before = copy.deepcopy(half.state())
    with pytest.raises(LostError, match="a gradient or a running statistic is not finite in epoch 1, iter"):
        second_crossing(half, *first_crossing(half, 2), scale=float("inf"))
    assert_close(half.state(), before, 0)


class Root(nn.Module):
    """Infinitely steep at zero."""

    def forward(self, x):
        return x.abs().sqrt()


@pytest.mark.parametrize(
    ("scale", "part", "reason"),
    [(float("inf"), 1, "the loss is nan"), (0.0, 2, "a gradient or a running statistic is not finite")],
)
def test_what_is_not_finite_is_seen_on_the_device(scale, part, reason):
    tail = nn.Sequential(nn.Linear(8, 8, bias=False), Root(), nn.Linear(8, 4))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), tail)
    with torch.no_grad():
        network[1].weight.mul_(scale)
        tail[0].weight.mul_(scale)
    with pytest.raises(LostError, match=f"{reason} in epoch 1, iteration 0, micro-batch {part}/2"):
        train_split(network, batches(), 2, 2, tail_units=1)
