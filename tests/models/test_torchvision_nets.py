"""Networks of torchvision, in units."""

import pytest
import torch
import torchvision

from pipar_rpc.models import (
    ModelSpec,
    Norm,
    build_meta,
    build_model,
    published,
    read_weights,
    summarise,
)


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


def test_resnet18_has_the_units_of_the_papers_table():
    """CONV-7-64-MaxPool, RES-3-64 x2, RES-3-128 x2, RES-3-256 x2, RES-3-512, RES-3-512-AvgPool, FC-10."""
    units = summarise(build_meta(spec(name="resnet18")), spec(name="resnet18"))
    assert [unit.output_shape for unit in units] == [
        *[(64, 8, 8)] * 3,
        *[(128, 4, 4)] * 2,
        *[(256, 2, 2)] * 2,
        *[(512, 1, 1), (512,), (10,)],
    ]


TORCHVISION = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenet_small": "mobilenet_v3_small",
    "mobilenet_large": "mobilenet_v3_large",
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_units_are_torchvisions_network_and_its_weights_load(name, tmp_path):
    """Weights of torchvision's network load into the units, which then compute what it computes; and back."""
    theirs = getattr(torchvision.models, TORCHVISION[name])(num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    ours = build_model(spec(name=name)).eval()
    ours.load_state_dict(read_weights(tmp_path / "weights.pt", spec(name=name), strict=True))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))
    state = published(ours.state_dict(), spec(name=name))
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in theirs.state_dict().items())
