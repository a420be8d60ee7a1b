"""Inputs that are no images, on two halves and in a plain loop; random transforms beside random layers."""

import copy

import pytest
import torch
from torch import nn

from pipar_rpc.base.network_input import NetworkInput
from pipar_rpc.data import Batches, DataSpec, describe, load_train_part, open_source
from pipar_rpc.learning import LearningSpec, LossSpec, OptimizerSpec
from pipar_rpc.models import ModelSpec, Norm, build_model
from tests.support.loops import assert_close, train_split
from tests.support.processes import ROOT

EXAMPLES = ROOT / "docs/examples"
EPOCHS = 2
OPTIMIZER = OptimizerSpec("adamw", lr=0.01, momentum=0)
LENGTH, SIZES = 16, {"width": 16, "blocks": 2, "heads": 2}


def batches_of(target, batch_size, **args):
    asked = DataSpec("custom", 1, 32, None, 0, train_size_per_device=24, target=target, args=args)
    source = open_source(asked, EXAMPLES, False)
    known = describe(source, asked)
    return known, Batches(load_train_part(source, known, 1, 1), batch_size, None, seed=0, device=1)


def network_of(target, data, **args):
    torch.manual_seed(1)
    kind = ("custom", Norm.none, 0, 0, data.num_classes or 0)
    return build_model(ModelSpec(*kind, target=target, args=args, input=data.input))


def train_plain(network, batches, loss):
    trained = [own for own in network.parameters() if own.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0)
    for epoch in range(1, EPOCHS + 1):
        for iteration in range(len(batches)):
            inputs, labels = batches.get(epoch, iteration)
            optimizer.zero_grad()
            loss(network(inputs), labels).backward()
            optimizer.step()
    return network.state_dict()


def check(network, batches, name, loss, number, last=1):
    plain = train_plain(copy.deepcopy(network), batches, loss)
    for split_point in range(1, len(network) + last):
        learning = LearningSpec(OPTIMIZER, loss=LossSpec(name))
        own = copy.deepcopy(network)
        state, report, _ = train_split(own, batches, split_point, number, learning=learning, epochs=EPOCHS)
        assert_close(state, plain, tolerance=1e-9)
        assert report.samples == 24
    return plain


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("build", ["build", "build_lora"])
def test_a_transformer_on_tokens_cut_at_each_block(monkeypatch, build, number):
    monkeypatch.syspath_prepend(EXAMPLES)
    data, batches = batches_of("transformer.Text", 10, length=LENGTH)
    assert (data.has_classes, data.input) == (False, NetworkInput((LENGTH,), "int64"))
    network = network_of(f"transformer.{build}", data, **SIZES)
    before = copy.deepcopy(network.state_dict())
    after = check(network, batches, "cross_entropy", nn.CrossEntropyLoss(), number)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    adapters = {f"{block}.qkv.{part}" for block in (1, 2) for part in ("up", "down")}
    assert changed == (adapters if build == "build_lora" else set(before))


def test_adapters_are_few_and_begin_as_the_pretrained_network(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    data, batches = batches_of("transformer.Text", 4, length=LENGTH)
    pretrained, adapted = (network_of(f"transformer.{name}", data) for name in ("build", "build_lora"))
    missing, unexpected = adapted.load_state_dict(pretrained.state_dict(), strict=False)
    assert unexpected == []
    assert {name.split(".")[-1] for name in missing} == {"up", "down"}
    inputs, _ = batches.get(1, 0)
    assert torch.equal(adapted(inputs), pretrained(inputs))
    device_half = adapted[:3]
    trained = sum(own.numel() for own in device_half.parameters() if own.requires_grad)
    assert trained == 2 * 4 * (96 + 3 * 96)
    assert trained < sum(own.numel() for own in device_half.parameters()) / 50


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("number", [1, 3])
def test_regression_on_vectors(number):
    data, batches = batches_of("tests.support.own_data.regression", 10)
    network = network_of("tests.support.own_network.vectors", data)
    check(network, batches, "mse", nn.MSELoss(), number)


class Scattered(nn.Module):
    """A random layer that draws from torch's global generator, and notes whether a batch was being read."""

    reading = False
    overlaps = 0

    def forward(self, x):
        Scattered.overlaps += Scattered.reading
        return x * torch.rand(x.shape)


def test_random_transforms_never_run_beside_a_forward_pass(monkeypatch):
    _, batches = batches_of("tests.support.own_data.images", 4)
    read = batches.get

    def get(epoch, iteration):
        Scattered.reading = True
        found = read(epoch, iteration)
        Scattered.reading = False
        return found

    monkeypatch.setattr(batches, "get", get)
    layers = [nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Scattered()), nn.Linear(8, 2)]
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        network = nn.Sequential(*copy.deepcopy(layers))
        states.append(train_split(network, batches, 1, 2, epochs=EPOCHS)[0])
    assert Scattered.overlaps == 0
    assert_close(states[0], states[1], 0)
