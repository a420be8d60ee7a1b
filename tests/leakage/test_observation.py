"""What is seen at the cut is what crosses there."""

import pytest
import torch
from torch.nn import functional as F

from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.random_streams import generator
from pipar_rpc.compression.coding import NO_CODECS, Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.leakage.noise import clip_and_noise
from pipar_rpc.leakage.observation import Crossing, device_activations, observe
from pipar_rpc.learning import Criterion, LossSpec
from pipar_rpc.models import ModelSpec, Norm, build_model

BATCH = 6


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", Norm.group, channels=1, image_size=8, num_classes=4)).eval()


def samples():
    torch.manual_seed(1)
    return torch.rand(BATCH, 1, 8, 8), torch.arange(BATCH) % 4


def seen_at(network, crossing, tail_units=1):
    inputs, labels = samples()
    clear = device_activations(network, crossing.split_point, inputs)
    return observe(network, clear, labels, crossing, Criterion(LossSpec()), tail_units, 0)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("split_point", [1, 3, 4])
def test_it_is_what_plain_training_computes(network, split_point):
    network, (inputs, labels) = network.double(), samples()
    activations = network[:split_point](inputs)
    before = network[split_point:4](activations)
    outputs = network[4:](before)
    gradients = torch.autograd.grad(F.cross_entropy(outputs, labels), [activations, before])
    seen = seen_at(network, Crossing(split_point, NO_CODECS, 1.0, 0.0))
    found = (seen.activations, seen.outputs, seen.cut_gradients, seen.tail_gradients)
    for own, expected in zip(found, (activations, outputs, *gradients), strict=True):
        torch.testing.assert_close(own, expected.detach(), rtol=0, atol=1e-9)


def test_a_tail_that_begins_before_the_cut_sends_nothing(network):
    assert seen_at(network, Crossing(4, NO_CODECS, 1.0, 0.0), tail_units=2).tail_gradients is None
    assert seen_at(network, Crossing(3, NO_CODECS, 1.0, 0.0), tail_units=2).tail_gradients is not None


def test_activations_are_clipped_and_noised_and_then_coded(network):
    coding = CodingSpec(CodecSpec("int4"), CodecSpec("int8"))
    crossing = Crossing(1, coding, 0.5, 0.1)
    seen, (inputs, _) = seen_at(network, crossing), samples()
    clear = device_activations(network, 1, inputs)
    leaving = clip_and_noise(clear, 0.5, 0.1, generator(0, "leakage", "noise", 0))
    coder = Coding(coding)
    sent = coder.encode_activation(Part(1, 0, 1, 1, 1.0), leaving)
    assert torch.equal(seen.activations, coder.decode_activation(sent, inputs.device))
    assert not torch.equal(seen.activations, leaving)
    assert len(seen.cut_gradients[0, 0].unique()) <= 2 * 127 + 1  # int8, a scale for each channel


def test_noise_is_another_one_for_each_seed_and_batch(network):
    crossing, labels = Crossing(1, NO_CODECS, 1.0, 1.0), torch.zeros(200, dtype=torch.int64)
    clear = torch.zeros(200, 32, 4, 4)
    criterion = Criterion(LossSpec())
    first, again, other = (
        observe(network, clear, labels, crossing, criterion, 1, seed).activations for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[:100], first[100:])
