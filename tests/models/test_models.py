"""The networks: the paper's layers, and cuts anywhere."""

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.models import (
    MODELS,
    ModelSpec,
    Norm,
    build_device_layers,
    build_meta,
    build_model,
    summarise,
)
from tests.support.commands import run_here


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 100), (3, 8, 2)])
def test_input_and_classes_follow_the_data(norm, channels, size, classes):
    network = build_model(spec(norm=norm, channels=channels, image_size=size, num_classes=classes))
    assert network(torch.zeros(2, channels, size, size)).shape == (2, classes)


@pytest.mark.parametrize("split_point", range(1, 6))
def test_the_halves_are_the_network(split_point):
    network = build_model(spec()).eval()
    device, server = network[:split_point], network[split_point:]
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(server(device(images)), network(images))
    assert (device.state_dict() | server.state_dict()).keys() == network.state_dict().keys()


def test_unknown_model():
    with pytest.raises(ConfigError, match=r"model.name=resnet81: must be .+ did you mean resnet18"):
        build_model(spec(name="resnet81"))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("norm", Norm)
def test_grey_images_and_any_norm(name, norm):
    asked = spec(name=name, norm=norm, channels=1, num_classes=7)
    network = build_meta(asked)
    assert summarise(network, asked)[-1].output_shape == (7,)
    norms = {type(layer) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)}
    expected = {Norm.batch: {nn.BatchNorm2d}, Norm.group: {nn.GroupNorm}, Norm.none: set()}
    assert norms == expected[norm]


def test_images_too_small_for_the_poolings():
    with pytest.raises(ConfigError, match=r"data.image_size=28: must be at least 32 for vgg11"):
        build_model(spec(name="vgg11", image_size=28))


def test_the_table_of_units():
    shown = run_here("pipar_rpc.models", "VGG5", "resnet18", "--channels", "1").out
    assert "VGG5: Q = 5, images 1x32x32, norm batch" in shown
    assert "resnet18: Q = 10" in shown
    assert "32x16x16         384        32,768" in shown  # 1 * 9 * 32 weights, 32 biases, 64 of batch norm


@pytest.mark.parametrize("name", [*MODELS])
@pytest.mark.parametrize("norm", [Norm.batch, Norm.group])
def test_a_part_is_the_first_units_of_the_network(name, norm):
    spec = ModelSpec(name, norm, 3, 32, 10)
    whole = build_model(spec)
    part = build_device_layers(spec, 2)
    assert [type(module) for module in part.modules()] == [type(module) for module in whole[:2].modules()]
    assert all(torch.isfinite(tensor).all() for tensor in part.state_dict().values())
    part.load_state_dict(whole[:2].state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(part.eval()(images), whole[:2].eval()(images))
