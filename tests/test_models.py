"""The networks: the paper's layers, and cuts anywhere."""

import pytest
import torch
from torch import nn

from pipar_rpc.errors import ConfigError
from pipar_rpc.models import ModelSpec, Norm, activation_bytes, build_model


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


def test_vgg5_is_the_papers():
    """Table II: CONV-3-32-MaxPool, CONV-3-64-MaxPool, CONV-3-64, FC-128, FC-10."""
    network = build_model(spec())
    x, shapes = torch.zeros(2, 3, 32, 32), []
    for unit in network:
        x = unit(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(32, 16, 16), (64, 8, 8), (64, 8, 8), (128,), (10,)]
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [
        *((32, 3, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)),
        *((128, 4096), (10, 128)),
    ]


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


def test_activation_bytes():
    assert activation_bytes(spec(), 1, 100) == 100 * 32 * 16 * 16 * 4  # the 3.28 MB of the paper's uplink
    assert activation_bytes(spec(), 5, 10) == 10 * 10 * 4


def test_unknown_model():
    with pytest.raises(ConfigError, match=r"model.name=vgg6: must be .+ did you mean vgg5"):
        build_model(spec(name="vgg6"))
