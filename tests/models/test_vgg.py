"""The VGGs are the paper's."""

import pytest
import torch
from torch import nn

from pipar_rpc.models import (
    ModelSpec,
    Norm,
    build_meta,
    build_model,
)


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


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_large_vggs_have_the_papers_head(name):
    linear = [layer for layer in build_meta(spec(name=name)).modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (512, 4096),
        (4096, 4096),
        (4096, 10),
    ]
