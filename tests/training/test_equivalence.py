"""Split and pipelined training is plain training: every network, every cut, any N, to rounding."""

import copy
from functools import cache

import pytest
import torch
from torch import nn

from pipar_rpc.base.gpu import main_stream, open_stream
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.learning import LearningSpec, OptimizerSpec
from pipar_rpc.models import MODELS, ModelSpec, Norm, build_meta, build_model, seed_dropout
from pipar_rpc.timing.timeline import Stage
from tests.support.coding import EXACT
from tests.support.loops import assert_close, make_batches, train_plain, train_split
from tests.support.streams import FakeStream, needs_gpu

BATCH = 10
CUTS = [
    (name, p) for name in MODELS for p in range(1, len(build_meta(ModelSpec(name, Norm.none, 3, 32, 4))) + 1)
]

LAST = {name: max(p for other, p in CUTS if other == name) for name in MODELS}
FEW_CUTS = [(name, p) for name, p in CUTS if p in {1, LAST[name] // 2, LAST[name] - 1}]
# VGG5 has the same kinds of units as the larger VGGs, whose linear layers take most of the time.
MANY_CUTS = [(name, p) for name, p in CUTS if name not in {"vgg11", "vgg16"} or (name, p) in FEW_CUTS]


pytestmark = pytest.mark.usefixtures("double_precision")


def make(norm: Norm, name="vgg5", image_size=8) -> nn.Sequential:
    torch.manual_seed(0)
    return build_model(ModelSpec(name, norm, channels=3, image_size=image_size, num_classes=4))


def vgg5_batches():
    """24 samples: two batches of 10 and one of 4."""
    return make_batches(24, image_size=8, num_classes=4, batch_size=BATCH)


@pytest.mark.parametrize("num_micro_batches", [1, 3, 7, BATCH])
@pytest.mark.parametrize("split_point", range(1, 6))
@pytest.mark.parametrize("norm", [Norm.none, Norm.group])
def test_split_with_micro_batches_equals_unsplit(norm, split_point, num_micro_batches):
    network = make(norm)
    plain, plain_loss, plain_losses = train_plain(copy.deepcopy(network), vgg5_batches())
    state, report, losses = train_split(network, vgg5_batches(), split_point, num_micro_batches)
    assert_close(state, plain, tolerance=1e-9)
    assert report.loss / report.samples == pytest.approx(plain_loss, abs=1e-9)
    assert losses == pytest.approx(plain_losses, abs=1e-9)
    assert (report.samples, report.iterations) == (24, 3)
    sizes = [min(num_micro_batches, size) for size in (10, 10, 4)]
    assert report.stages[Stage.DEVICE_FORWARD].count == sum(sizes)


TOP = CodecSpec("topk")
STREAMS = [(1, 0), (3, 0), (5, 0), (2, 1)]  # P, T
CODECS = [EXACT, Coding(CodingSpec(CodecSpec("int8"), CodecSpec("int8"))), Coding(CodingSpec(TOP, TOP))]


@pytest.mark.parametrize("coding", CODECS, ids=["none", "int8", "topk"])
@pytest.mark.parametrize(("split_point", "tail_units"), STREAMS)
def test_with_streams_training_is_that_of_the_cpu_bit_for_bit(split_point, tail_units, coding):
    """Nobody uses what has not come yet, and nothing is lost or done in another order."""
    cut = {"split_point": split_point, "num_micro_batches": 4, "tail_units": tail_units, "coding": coding}
    streams = FakeStream(), FakeStream()
    found = [train_split(make(Norm.batch), vgg5_batches(), **cut, streams=own) for own in (None, streams)]
    (plain, report, losses), (state, other, other_losses) = found
    assert_close(state, plain, tolerance=0)
    assert other_losses == losses
    assert (other.correct, other.uplink_bytes) == (report.correct, report.uplink_bytes)
    assert {stage: busy.count for stage, busy in other.stages.items()} == {
        stage: busy.count for stage, busy in report.stages.items()
    }


@needs_gpu
@pytest.mark.parametrize(("split_point", "tail_units"), STREAMS)
def test_a_gpu_trains_what_the_cpu_trains(split_point, tail_units):
    device = torch.device("cuda", 0)
    cut = {"split_point": split_point, "num_micro_batches": 4, "tail_units": tail_units}
    plain, _, losses = train_split(make(Norm.batch), vgg5_batches(), **cut)
    streams = main_stream(device), open_stream(device)
    state, _, found = train_split(make(Norm.batch), vgg5_batches(), **cut, streams=streams, where=device)
    assert_close(state, plain, tolerance=1e-9)
    assert found == pytest.approx(losses, abs=1e-9)


@pytest.mark.parametrize("num_micro_batches", [1, 3, 7, BATCH])
@pytest.mark.parametrize("split_point", range(1, 6))
def test_batch_norm_equals_an_unsplit_loop_over_the_same_micro_batches(split_point, num_micro_batches):
    network = make(Norm.batch)
    plain, plain_loss, _ = train_plain(copy.deepcopy(network), vgg5_batches(), num_micro_batches)
    state, report, _ = train_split(network, vgg5_batches(), split_point, num_micro_batches)
    assert_close(state, plain, tolerance=1e-9)
    assert report.loss / report.samples == pytest.approx(plain_loss, abs=1e-9)


def test_batch_norm_depends_on_micro_batches_which_is_why_there_is_a_notice():
    network = make(Norm.batch)
    one, _, _ = train_plain(copy.deepcopy(network), vgg5_batches(), 1)
    many, _, _ = train_plain(network, vgg5_batches(), 5)
    assert not torch.allclose(one["conv1.1.running_mean"], many["conv1.1.running_mean"], atol=1e-3)


# The whole zoo at its real size: one small mini-batch. A large learning rate would hide nothing and amplify
# rounding through 50 layers, so it is small.
GENTLE = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}
GENTLY = LearningSpec(OptimizerSpec(**GENTLE))


def zoo_batches(norm):
    """3 samples; 6 for batch norm, which needs two of them in each micro-batch."""
    size = 6 if norm is Norm.batch else 3
    return make_batches(size, image_size=32, num_classes=4, batch_size=size)


@cache
def zoo_network(name, norm):
    """Without dropout, whose masks differ between N."""
    network = make(norm, name, image_size=32)
    for layer in network.modules():
        if hasattr(layer, "per_channel"):
            layer.p = 0.0
    return network


@cache
def zoo_plain(name, norm, num_micro_batches):
    return train_plain(
        copy.deepcopy(zoo_network(name, norm)), zoo_batches(norm), num_micro_batches, optimizer=GENTLE
    )


def assert_exact(name, norm, split_point, num_micro_batches, plain):
    network = copy.deepcopy(zoo_network(name, norm))
    state, report, _ = train_split(
        network, zoo_batches(norm), split_point, num_micro_batches, learning=GENTLY
    )
    expected, loss, _ = plain
    assert_close(state, expected, tolerance=1e-9)
    assert report.loss / report.samples == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize(("name", "split_point"), MANY_CUTS)
def test_every_network_cut_anywhere_equals_unsplit_with_group_norm(name, split_point):
    assert_exact(name, Norm.group, split_point, 3, zoo_plain(name, Norm.group, 1))


@pytest.mark.parametrize(("name", "split_point"), FEW_CUTS)
def test_every_network_equals_the_same_micro_batches_with_batch_norm(name, split_point):
    assert_exact(name, Norm.batch, split_point, 3, zoo_plain(name, Norm.batch, 3))


def dropout_network() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout2d(0.3))
    second = nn.Sequential(
        nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.Flatten()
    )  # in place at a cut
    return seed_dropout(nn.Sequential(first, second, nn.Linear(8 * 36, 4)))


@pytest.mark.parametrize("split_point", [1, 2, 3])
def test_dropout_masks_do_not_depend_on_the_cut(split_point):
    batches = vgg5_batches()
    plain, loss, _ = train_plain(dropout_network(), batches, 3)
    state, report, _ = train_split(dropout_network(), batches, split_point, 3)
    assert_close(state, plain, tolerance=1e-9)
    assert report.loss / report.samples == pytest.approx(loss, abs=1e-9)


def test_micro_batches_are_not_smaller_than_batch_norm_needs():
    """A batch of 5 in 4 micro-batches would have single samples, on which 1x1 maps cannot be normalised."""
    network = make(Norm.batch, "mobilenet_small", image_size=32)
    batches = make_batches(5, image_size=32, num_classes=4, batch_size=5)
    plain, _, _ = train_plain(copy.deepcopy(network), batches, 2, optimizer=GENTLE)
    state, _, _ = train_split(network, batches, 3, 4, smallest=2, learning=GENTLY)
    assert_close(state, plain, tolerance=1e-9)
