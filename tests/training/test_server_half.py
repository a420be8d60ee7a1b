"""The server's half: what it does with mini-batches that diverge."""

import copy
import math

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import LostError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.random_streams import generator
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.models import DropoutStreams
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.server_half import ServerHalf
from tests.support.coding import EXACT, coded
from tests.support.loops import LEARNING


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


def server_half(*layers):
    layers = nn.Sequential(*layers)
    streams = DropoutStreams(layers, seed=0, device=1)
    return ServerHalf(layers, LEARNING, streams, EXACT, torch.device("cpu"), Timeline())


def train(half, iteration, *scales):
    """A mini-batch with a micro-batch for each scale of the activations."""
    rng = generator(0, "test", iteration)
    for index, scale in enumerate(scales, start=1):
        part = Part(1, iteration, index, len(scales), 1 / len(scales))
        activation = torch.randn(6, 4, generator=rng) * scale
        half.process(part, coded(activation), torch.arange(6) % 2, lambda result: None)


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
