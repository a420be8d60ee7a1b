"""The server's half: what it does with mini-batches that diverge."""

import copy
import math

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import LostError
from pipar_rpc.base.gpu import Later, settled
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.random_streams import generator
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.models import DropoutStreams
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.finite_check import _changed, _changed_sum, _finite
from pipar_rpc.training.server_half import ServerHalf
from tests.support.coding import EXACT, coded
from tests.support.loops import LEARNING, assert_close
from tests.support.streams import NOT_THERE, FakeStream


class Root(nn.Module):
    """Infinitely steep at zero; with a buffer that is infinite on purpose, as masks are."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)
        self.register_buffer("mask", torch.full((4,), -math.inf))

    def forward(self, x):
        return self.linear(x).abs().sqrt()


@pytest.mark.parametrize(
    ("layers", "scale", "reason"),
    [
        ([nn.BatchNorm1d(4), nn.Linear(4, 2)], math.inf, "the loss is nan"),
        ([nn.BatchNorm1d(4), nn.Linear(4, 2)], 1e30, "a gradient or a running statistic is not finite"),
        (
            [nn.Linear(4, 4, bias=False), Root(), nn.Linear(4, 2)],
            0.0,
            "a gradient or a running statistic is not finite",
        ),
    ],
    ids=["loss", "statistics", "gradient"],
)
def test_a_half_is_as_before_the_mini_batch_that_diverged(layers, scale, reason):
    """Whether seen by the loss or not: with a shared half, all the others once left as well."""
    half = server_half(*layers)
    train(half, 1, 1.0)
    state, momentum = copy.deepcopy(half.snapshot())
    with pytest.raises(LostError, match=f"{reason} in epoch 1, iteration 2, micro-batch 2/2"):
        train(half, 2, 1.0, scale)
    after, velocity = half.snapshot()
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert all(torch.equal(velocity[name], momentum[name]) for name in momentum)
    again = server_half(*copy.deepcopy(layers))
    again.restore((state, momentum))
    for one in (half, again):
        train(one, 3, 2.0)
    assert all(torch.equal(half.state()[name], again.state()[name]) for name in state)


@pytest.mark.parametrize(
    "between", [lambda half, state: None, ServerHalf.load], ids=["at once", "next round"]
)
def test_a_shared_half_forgets_the_mini_batch_of_a_device_that_is_gone(between):
    """It had sent the first of two micro-batches; another device goes on with the half."""
    layers = [nn.BatchNorm1d(4), nn.Linear(4, 2)]
    both, alone = server_half(*layers), server_half(*copy.deepcopy(layers))
    other = both.for_device(DropoutStreams(both._layers, seed=0, device=2), EXACT, Timeline())
    train(both, 1, 1.0)
    train(alone, 1, 1.0)
    state = {name: 2 * tensor for name, tensor in alone.state().items()}  # the global network
    part = Part(1, 2, 1, 2, 0.5)
    both.process(part, coded(torch.randn(6, 4)), torch.arange(6) % 2, lambda result: None)
    for one in (other, alone):
        between(one, state)
        train(one, 3, 1.0, 2.0)
    assert_close(other.state(), alone.state(), 0)


def server_half(*layers, stream=None):
    layers = nn.Sequential(*layers)
    streams = DropoutStreams(layers, seed=0, device=1)
    device = torch.device("cpu")
    return ServerHalf(layers, LEARNING, streams, EXACT, device, Timeline(), stream=stream)


def train(half, iteration, *scales, reply=None):
    """A mini-batch with a micro-batch for each scale of the activations; gradients go to `reply`."""
    rng = generator(0, "test", iteration)
    for index, scale in enumerate(scales, start=1):
        part = Part(1, iteration, index, len(scales), 1 / len(scales))
        activation = torch.randn(6, 4, generator=rng) * scale
        sent = coded(activation.requires_grad_(reply is not None))
        half.process(part, sent, torch.arange(6) % 2, reply or (lambda result: None))


def test_layers_bring_their_codecs_with_them():
    """A device that held everything, so that nothing was coded, gives layers up: then it is."""
    half, replies = server_half(), []
    layers = nn.Sequential(nn.Linear(4, 2))
    int8 = Coding(CodingSpec(CodecSpec("int8"), CodecSpec("int8")))
    half.recut(layers, DropoutStreams(layers, 0, 1), int8, {})
    part = Part(1, 0, 1, 1, 1.0)
    sent = int8.encode_activation(part, torch.randn(6, 4, requires_grad=True))
    half.process(part, sent, torch.arange(6) % 2, replies.append)
    assert replies[0].gradient.numel() == sent.gradient_bytes == 6 * (4 + 4)


class Inside(nn.Module):
    """Notes whether both passes are given to a stream."""

    def __init__(self, stream):
        super().__init__()
        self._stream, self.seen = stream, []

    def forward(self, x):
        self.seen.append(self._stream.inside > 0)
        if x.requires_grad:
            x.register_hook(lambda gradient: self.seen.append(self._stream.inside > 0))
        return x


def test_on_a_stream_results_are_those_of_the_cpu_and_come_later():
    """Each is waited for by itself; until the end of the mini-batch, the half waits for nothing."""
    torch.manual_seed(0)
    stream, layers, plain, replies = FakeStream(), [nn.BatchNorm1d(4), nn.Linear(4, 2)], [], []
    watch = Inside(stream)
    half = server_half(watch, *copy.deepcopy(layers), stream=stream)
    train(server_half(nn.Identity(), *layers), 1, 1.0, 2.0, 3.0, reply=plain.append)
    before = []

    def reply(result):
        before.append(stream.reached)
        replies.append(result)

    stream.calls.clear()
    train(half, 1, 1.0, 2.0, 3.0, reply=reply)
    assert len(set(before)) == 1
    assert stream.calls == ["used"] * 3
    assert watch.seen == [True] * 6
    assert all(isinstance(result, Later) for result in replies)
    for result, expected in zip(map(settled, replies), plain, strict=True):
        assert torch.equal(result.gradient, expected.gradient)
        assert (result.loss, result.correct) == (expected.loss, expected.correct)
    for stage in half._timeline.drain():
        assert math.isfinite(stage.start)


def test_on_a_stream_nothing_is_there_before_it_is_waited_for():
    stream, replies = FakeStream(), []
    half = server_half(nn.Linear(4, 2), stream=stream)
    part = Part(1, 0, 1, 2, 0.5)
    half.process(part, coded(torch.randn(6, 4, requires_grad=True)), torch.arange(6) % 2, replies.append)
    (coming,) = [own for own in stream._coming if own[1].dtype == torch.uint8]
    assert set(coming[1].tolist()) == {NOT_THERE}
    assert settled(replies[0]).gradient is coming[1]
    assert set(coming[1].tolist()) != {NOT_THERE}


def test_whatever_is_asked_of_a_half_waits_for_its_stream():
    """From any thread: weights, the optimiser's state, and new ones of both."""
    stream = FakeStream()
    half = server_half(nn.Linear(4, 2), stream=stream)
    train(half, 1, 1.0)
    snapshot = half.snapshot()
    layers = nn.Sequential(nn.Linear(4, 2))
    asked = [
        half.state,
        half.optimizer_state,
        half.snapshot,
        lambda: half.restore(snapshot),
        lambda: half.load(snapshot[0]),
        lambda: half.recut(layers, DropoutStreams(layers, 0, 1), EXACT, {}),
    ]
    for ask in asked:
        stream.calls.clear()
        ask()
        assert (stream.calls[0], stream.calls[-1]) == ("used", "finish")


@pytest.mark.parametrize("frozen", [False, True])
def test_on_a_stream_the_last_part_tells_that_a_loss_was_not_finite(frozen):
    """No earlier one looks; the half is undone as on the CPU."""
    stream, replies = FakeStream(), []
    layers = [nn.BatchNorm1d(4), nn.Linear(4, 2)]
    half = server_half(*layers, stream=stream)
    half._layers.requires_grad_(not frozen)
    if frozen:
        half.recut(half._layers, half._dropout, EXACT, {})
    before = copy.deepcopy(half.state())
    with pytest.raises(LostError, match="the loss is nan in epoch 1, iteration 2, micro-batch 2/3"):
        train(half, 2, 1.0, math.inf, 1.0, reply=replies.append)
    assert len(replies) == 3
    assert math.isnan(settled(replies[1]).loss)
    assert_close(half.state(), before, 0)
    train(half, 3, 1.0, reply=replies.append)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_buffer_that_has_changed_is_found_without_a_look_at_it(dtype):
    """What counts for a GPU is what counts for the CPU."""
    values = [0, 1] if dtype != torch.float32 else [0.0, 1.0, math.inf, -math.inf, math.nan]
    for now in values:
        for before in values:
            both = torch.tensor([1, now], dtype=dtype), torch.tensor([1, before], dtype=dtype)
            changed = _changed(*both)
            assert _finite([_changed_sum(*both)]) == _finite([] if changed is None else [changed])
