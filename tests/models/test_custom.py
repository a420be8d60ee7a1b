"""Networks of the user's own."""

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import UserError
from pipar_rpc.base.network_input import NetworkInput
from pipar_rpc.models import (
    ModelSpec,
    Norm,
    build_meta,
    build_model,
    held_bytes,
    smallest_batch,
    summarise,
)
from pipar_rpc.models.dropout import SeededDropout
from pipar_rpc.testbed.unit_timer import time_units


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


def custom(target, **args) -> ModelSpec:
    fields = {key: args.pop(key) for key in list(args) if key in ModelSpec.__dataclass_fields__}
    return spec(name="custom", target=f"tests.support.own_network.{target}", args=args, **fields)


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


TOKENS = NetworkInput((5,), "int64")


def test_a_network_for_tokens():
    asked = custom("for_tokens", input=TOKENS, channels=0, image_size=0, num_classes=7)
    units = summarise(build_meta(asked), asked)
    assert [unit.output_shape for unit in units] == [(5, 4), (7, 5)]  # an output for each class is not asked
    assert smallest_batch(build_meta(asked), asked) == 1
    assert held_bytes(build_meta(asked), asked)[0] == 5 * 8  # the tokens
    times = time_units(asked, [2], 1, torch.device("cpu")).units
    assert [unit.name for unit in times] == ["0", "1"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"target": "rounding"},
            "rounding: unit 0 returns int64, expected floats: only float activations cross",
        ),
        (
            {"target": "vectors", "input": NetworkInput((5, 0)), "args": {"width": 3}},
            r"vectors: unit 0 cannot take \(5, 0\) for each sample: ",
        ),
        ({"name": "vgg5"}, "model.name=vgg5: must be custom: .* no square image but 5 int64"),
        ({"name": "vgg5", "channels": 3, "image_size": 8}, "data.num_classes=null: must be the number of"),
    ],
)
def test_what_does_not_go_with_the_input(changes, line):
    values = {"name": "custom", "channels": 0, "image_size": 0, "num_classes": 0, "input": TOKENS} | changes
    if "target" in values:
        values["target"] = f"tests.support.own_network.{values['target']}"
    asked = spec(**values)
    with pytest.raises(UserError, match=line):
        summarise(build_meta(asked), asked)
