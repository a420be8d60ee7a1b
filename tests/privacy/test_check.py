"""What has no gradients of single samples is refused in one line before anything starts."""

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import UserError
from pipar_rpc.models import ModelSpec, Norm, build_model
from pipar_rpc.privacy.check import check_network
from tests.support import dpsgd

SHAPE, CLASSES = (3, 4, 4), 10


def sequence(name):
    units = nn.Sequential(*getattr(dpsgd, name)(SHAPE, CLASSES))
    units(torch.zeros(2, *SHAPE))
    return units


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of LSTM
@pytest.mark.parametrize("name", ["convolutions", "transformer", "recurrent"])
def test_networks_of_many_kinds_pass(name):
    check_network(sequence(name), torch.rand(3, *SHAPE) * 255, empty=False)


@pytest.mark.parametrize("name", ["vgg5", "resnet18", "mobilenet_small"])
def test_own_networks_pass(name):
    spec = ModelSpec(name, Norm.group, 3, 32, CLASSES)
    check_network(build_model(spec), spec.make_input(3, "cpu"), empty=True)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mixing", "unit 1 .* depends on the other samples"),
        ("overwriting", "the input of Linear is overwritten by a layer that works in place"),
        ("branching", "has no gradient of a layer of type Branching"),
        ("convolutions", "unit 1 fails on single samples or on none"),  # instance norm wants a sample
    ],
)
def test_others_are_refused(name, line):
    with pytest.raises(UserError, match=rf"^privacy\.dpsgd: .*{line}"):
        check_network(sequence(name), torch.rand(3, *SHAPE), empty=True)
