"""Dropout that can be repeated."""

import pytest
import torch
from torch import nn

from pipar_rpc.base.random_streams import generator
from pipar_rpc.models import (
    ModelSpec,
    Norm,
    build_meta,
)
from pipar_rpc.models.dropout import SeededDropout


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


@pytest.mark.parametrize(("layer", "per_channel"), [(nn.Dropout(0.3), False), (nn.Dropout2d(0.3), True)])
def test_seeded_dropout_does_what_torchs_does(layer, per_channel):
    x, seeded = torch.ones(200, 50, 4, 4), SeededDropout(0.3, per_channel)
    seeded.rng = generator(0, "test")
    for y in (layer(x), seeded(x)):
        assert float(y.mean()) == pytest.approx(1, abs=0.03)
        assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / 0.7])
        maps = y.flatten(2)
        assert bool((maps == maps[:, :, :1]).all()) == per_channel
    assert torch.equal(seeded.eval()(x), x)
    assert torch.equal(SeededDropout(1.0, per_channel)(x), x * 0)


def test_all_dropout_of_a_network_is_seeded():
    for name in ("vgg16", "mobilenet_small"):
        layers = list(build_meta(spec(name=name)).modules())
        assert not any(isinstance(layer, nn.Dropout) for layer in layers)
        assert any(isinstance(layer, SeededDropout) for layer in layers)
