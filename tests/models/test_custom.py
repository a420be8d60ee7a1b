"""Networks of the user's own."""

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import UserError
from pipar_rpc.models import (
    ModelSpec,
    Norm,
    build_meta,
    build_model,
    summarise,
)
from pipar_rpc.models.dropout import SeededDropout


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


def custom(target, **args) -> ModelSpec:
    return spec(name="custom", target=f"tests.support.own_network.{target}", args=args)


def test_a_layer_that_is_used_twice_is_there_twice():
    network = build_model(custom("repeated"))
    assert [type(unit) for unit in network][1:4] == [nn.ReLU, SeededDropout, nn.ReLU]
    assert len(summarise(network.to("meta"), custom("repeated"))) == 6


def test_a_custom_network():
    units = summarise(build_meta(custom("build", width=8)), custom("build", width=8))
    assert [unit.output_shape for unit in units] == [(8, 16, 16), (8, 8, 8), (10,)]
    network = build_model(custom("as_list"))
    assert isinstance(network, nn.Sequential)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("nothing", r"own_network.nothing: must be the dotted name of a function that this"),
        ("WIDTH", r"model._target_=tests.support.own_network.WIDTH: must be a function"),
        ("whole", r"must be a function that returns an nn.Sequential or a list of modules, not Whole"),
        ("failing", r"model._target_=tests.support.own_network.failing failed: ValueError: no such width"),
        ("tied", r"units 0 and 1 share a parameter, so no cut can part them"),
    ],
)
def test_what_is_no_custom_network(target, line):
    with pytest.raises(UserError, match=line):
        build_model(custom(target))


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (
            "misfitting",
            r"own_network.misfitting: unit 1 cannot take \(4, 32, 32\) for each image: ",
        ),
        (
            "other_classes",
            r"own_network.other_classes: outputs \(3,\) for each image, expected \(10,\)",
        ),
    ],
)
def test_units_that_do_not_fit_together(target, line):
    with pytest.raises(UserError, match=line):
        summarise(build_meta(custom(target)), custom(target))
