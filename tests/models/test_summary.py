"""What the units of a network cost."""

import pytest
import torch
from torch import nn

from pipar_rpc.models import (
    MODELS,
    ModelSpec,
    Norm,
    build_meta,
    build_model,
    held_bytes,
    smallest_batch,
    summarise,
)


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


def test_activation_bytes():
    units = summarise(build_meta(spec()), spec())
    assert units[0].activation_bytes == 32 * 16 * 16 * 4  # 3.28 MB for the paper's batch of 100
    assert units[4].activation_bytes == 10 * 4


EXPECTED = {  # Q, parameters for 10 classes and colour images
    "vgg5": (5, 582_346),
    "vgg11": (11, 28_149_514),
    "vgg16": (16, 33_646_666),
    "resnet18": (10, 11_181_642),
    "resnet50": (18, 23_528_522),
    "mobilenet_small": (15, 1_528_106),
    "mobilenet_large": (19, 4_214_842),
}


@pytest.mark.parametrize("name", MODELS)
def test_units_and_parameters(name):
    units = summarise(build_meta(spec(name=name)), spec(name=name))
    assert (len(units), sum(unit.num_parameters for unit in units)) == EXPECTED[name]


def test_single_samples_are_too_few_for_batch_norm_on_maps_of_one_pixel():
    smallest = {name: smallest_batch(build_meta(spec(name=name)), spec(name=name)) for name in MODELS}
    assert smallest == {name: 1 if name.startswith("vgg") else 2 for name in MODELS}
    group = spec(name="resnet18", norm=Norm.group)
    assert smallest_batch(build_meta(group), group) == 1


@pytest.mark.parametrize("name", MODELS)
def test_flops_are_those_of_the_convolutions_and_matrices(name):
    """By hand: 2 * outputs * inputs of each output."""
    expected = 0

    def count(layer, inputs, output):
        nonlocal expected
        fan_in = layer.weight[0].numel()
        expected += 2 * output.numel() * fan_in

    network = build_model(spec(name=name)).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network(torch.zeros(1, 3, 32, 32))
    assert sum(unit.flops for unit in summarise(build_meta(spec(name=name)), spec(name=name))) == expected


@pytest.mark.parametrize("name", ["vgg5", "resnet18", "mobilenet_small"])
def test_kept_bytes_are_those_that_autograd_keeps(name):
    """Counted without computing, against the real thing on other images of the same size."""
    spec = ModelSpec(name, Norm.batch, 3, 32, 10)
    network, x = build_model(spec).train(), torch.rand(4, 3, 32, 32)
    for unit, expected in zip(network, held_bytes(build_meta(spec), spec), strict=True):
        own = {parameter.data_ptr() for parameter in unit.parameters()}
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = unit(x)
        assert sum(size for key, size in kept.items() if key not in own) / 4 == pytest.approx(
            expected, rel=0.1
        )
        x = y.detach().requires_grad_()
