"""Frozen by configuration: split training equals a plain loop in which the same parameters are frozen."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from pipar_rpc.base.microbatch import split_batch
from pipar_rpc.models import CUSTOM, DropoutStreams, ModelSpec, Norm, build_model
from pipar_rpc.training.exchange import LocalExchange
from tests.support.loops import OPTIMIZER, assert_close, make_batches, train_split

CLASSES = 4
SPECS = {
    "vgg5": ModelSpec("vgg5", Norm.batch, 3, 8, CLASSES),
    "resnet18": ModelSpec("resnet18", Norm.batch, 3, 32, CLASSES),
    "mobilenet_small": ModelSpec("mobilenet_small", Norm.batch, 3, 32, CLASSES),
    "custom": ModelSpec(CUSTOM, Norm.batch, 3, 8, CLASSES, "tests.support.own_network.build", {"width": 4}),
}
FIRST = {  # the first two units, by the names of their parameters
    "vgg5": ("conv1.", "conv2."),
    "resnet18": ("conv1.", "layer1_0."),
    "mobilenet_small": ("features_0.", "features_1."),
    "custom": ("0.", "1."),
}

BIASES = (*(f"conv{n}.{layer}.bias" for n in (1, 2, 3) for layer in (0, 1)), "fc1.1.bias", "fc2.bias")


class RestingNorm(FrozenBatchNorm2d):
    """torchvision's, with torch's own arithmetic.

    Batch norm after it, over two samples with one pixel, makes 1e-6 of a difference in the last bit.
    """

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def batches(spec: ModelSpec):
    """20 samples: two batches of 8, and one of 4."""
    return make_batches(20, spec.image_size, CLASSES, batch_size=8)


def made(spec: ModelSpec) -> nn.Sequential:
    """A network with statistics as training would leave them."""
    torch.manual_seed(0)
    network = build_model(spec)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return network


def by_hand(spec: ModelSpec, frozen: tuple[str, ...], fixed: tuple[str, ...]) -> nn.Sequential:
    """The same network, frozen without `model.freeze`; torchvision's own layer for batch norm that rests."""
    network = made(spec)
    for name, own in network.named_parameters():
        own.requires_grad_(not name.startswith(frozen))
    for name, parent in list(network.named_modules()):
        for key, layer in list(parent._modules.items()):
            path = f"{name}.{key}".removeprefix(".")
            if isinstance(layer, nn.BatchNorm2d) and path.startswith(fixed):
                kind = FrozenBatchNorm2d if spec.name == "vgg5" else RestingNorm
                own = kind(layer.num_features, layer.eps)
                own.load_state_dict(layer.state_dict())
                parent._modules[key] = own
    return network


def trained_plainly(network: nn.Sequential, data, num_micro_batches: int, smallest: int) -> dict:
    weights = [own for own in network.parameters() if own.requires_grad]
    sgd, dropout = torch.optim.SGD(weights, **OPTIMIZER), DropoutStreams(network, 0, 1)
    for iteration in range(len(data)):
        images, labels = data.get(1, iteration)
        for part, x, y, _ in split_batch(images, labels, num_micro_batches, 1, iteration, smallest):
            dropout.begin(part)
            (F.cross_entropy(network.train()(x), y) * part.weight).backward()
        sgd.step()
        sgd.zero_grad()
    return network.state_dict()


def assert_equal(state, plain):
    """torchvision's layer does not count batches."""
    assert len(plain) >= 3
    assert_close({key: state[key] for key in plain}, plain, 1e-9)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("split_point", [1, 2, 3])
@pytest.mark.parametrize("name", SPECS)
def test_the_first_units_frozen(name, split_point):
    """Their batch norm rests: it does what torchvision's FrozenBatchNorm2d does."""
    spec, first = SPECS[name], FIRST[name]
    smallest = 2 if spec.image_size == 32 else 1
    network = made(dataclasses.replace(spec, freeze=2))
    before = {key: own.clone() for key, own in network.state_dict().items() if key.startswith(first)}
    plain = trained_plainly(by_hand(spec, first, first), batches(spec), 3, smallest)
    state, _, _ = train_split(network, batches(spec), split_point, 3, smallest)
    assert_equal(state, plain)
    assert before
    assert all(torch.equal(state[key], own) for key, own in before.items())


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("split_point", [1, 3, 5])
@pytest.mark.parametrize(
    ("freeze", "frozen", "fixed"),
    [
        (("conv2", "fc2"), ("conv2.", "fc2."), ("conv2.",)),
        (("*.bias",), BIASES, ()),
        (("conv?.1",), ("conv1.1.", "conv2.1.", "conv3.1."), ("conv1.1", "conv2.1", "conv3.1")),
    ],
)
def test_anything_frozen(freeze, frozen, fixed, split_point):
    spec = SPECS["vgg5"]
    plain = trained_plainly(by_hand(spec, frozen, fixed), batches(spec), 3, 1)
    state, _, _ = train_split(made(dataclasses.replace(spec, freeze=freeze)), batches(spec), split_point, 3)
    assert_equal(state, plain)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("num_micro_batches", [1, 3, 8])
def test_with_statistics_at_rest_batch_norm_is_exact_for_every_n(num_micro_batches):
    """Weights and biases of batch norm train; what is compared with is a loop without micro-batches."""
    spec = SPECS["vgg5"]
    network, plain = made(dataclasses.replace(spec, freeze=("*.running_*",))), made(spec)
    sgd, data = torch.optim.SGD(plain.parameters(), **OPTIMIZER), batches(spec)
    plain.train()
    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    for iteration in range(len(data)):
        images, labels = data.get(1, iteration)
        sgd.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        sgd.step()
    first = plain.state_dict()["conv1.1.weight"]
    assert not torch.equal(first, torch.ones_like(first))
    state, _, _ = train_split(network, data, 2, num_micro_batches)
    assert_close(state, plain.state_dict(), 1e-9)


@pytest.mark.parametrize(("split_point", "nothing_down"), [(1, True), (2, True), (3, False)])
def test_nothing_comes_down_to_a_frozen_half(monkeypatch, split_point, nothing_down):
    down, submit = [], LocalExchange.submit

    def noting(self, part, activation, labels):
        pending = submit(self, part, activation, labels)
        gradient = pending.result().gradient
        down.append((activation.gradient_bytes or 0, 0 if gradient is None else gradient.nbytes))
        return pending

    monkeypatch.setattr(LocalExchange, "submit", noting)
    spec = dataclasses.replace(SPECS["vgg5"], freeze=2)
    train_split(made(spec), batches(spec), split_point, 3)
    assert len(down) == 9
    assert all((own == (0, 0)) == nothing_down for own in down)
