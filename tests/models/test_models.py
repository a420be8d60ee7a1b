"""The networks: the paper's layers, and cuts anywhere."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from pipar_rpc.base.errors import ConfigError, UserError
from pipar_rpc.base.seeds import generator
from pipar_rpc.models import (
    MODELS,
    ModelSpec,
    Norm,
    build_meta,
    build_model,
    build_part,
    held_bytes,
    published,
    read_weights,
    smallest_batch,
    summarise,
)
from pipar_rpc.models.dropout import SeededDropout
from tests.support.processes import ROOT


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
    units = summarise(build_meta(spec()), spec())
    assert units[0].activation_bytes == 32 * 16 * 16 * 4  # 3.28 MB for the paper's batch of 100
    assert units[4].activation_bytes == 10 * 4


def test_unknown_model():
    with pytest.raises(ConfigError, match=r"model.name=resnet81: must be .+ did you mean resnet18"):
        build_model(spec(name="resnet81"))


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


def test_resnet18_has_the_units_of_the_papers_table():
    """CONV-7-64-MaxPool, RES-3-64 x2, RES-3-128 x2, RES-3-256 x2, RES-3-512, RES-3-512-AvgPool, FC-10."""
    units = summarise(build_meta(spec(name="resnet18")), spec(name="resnet18"))
    assert [unit.output_shape for unit in units] == [
        *[(64, 8, 8)] * 3,
        *[(128, 4, 4)] * 2,
        *[(256, 2, 2)] * 2,
        *[(512, 1, 1), (512,), (10,)],
    ]


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_large_vggs_have_the_papers_head(name):
    linear = [layer for layer in build_meta(spec(name=name)).modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (512, 4096),
        (4096, 4096),
        (4096, 10),
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("norm", Norm)
def test_grey_images_and_any_norm(name, norm):
    asked = spec(name=name, norm=norm, channels=1, num_classes=7)
    network = build_meta(asked)
    assert summarise(network, asked)[-1].output_shape == (7,)
    norms = {type(layer) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)}
    expected = {Norm.batch: {nn.BatchNorm2d}, Norm.group: {nn.GroupNorm}, Norm.none: set()}
    assert norms == expected[norm]


def test_single_samples_are_too_few_for_batch_norm_on_maps_of_one_pixel():
    smallest = {name: smallest_batch(build_meta(spec(name=name)), spec(name=name)) for name in MODELS}
    assert smallest == {name: 1 if name.startswith("vgg") else 2 for name in MODELS}
    group = spec(name="resnet18", norm=Norm.group)
    assert smallest_batch(build_meta(group), group) == 1


def test_images_too_small_for_the_poolings():
    with pytest.raises(ConfigError, match=r"data.image_size=28: must be at least 32 for vgg11"):
        build_model(spec(name="vgg11", image_size=28))


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


def test_the_table_of_units():
    command = [sys.executable, "-m", "pipar_rpc.models", "VGG5", "resnet18", "--channels", "1"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout
    assert "VGG5: Q = 5, images 1x32x32, norm batch" in shown
    assert "resnet18: Q = 10" in shown
    assert "32x16x16         384        32,768" in shown  # 1 * 9 * 32 weights, 32 biases, 64 of batch norm


# Networks of the user's own. The example in README is tests/support/own_network.py's `build`.


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


# Weights


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "weights.pt"
    other = build_model(spec(num_classes=3)).state_dict()
    torch.save(other, path)
    with pytest.raises(
        UserError, match=r"fc2.weight has shape \(3, 128\), the network's has \(10, 128\); model.str"
    ):
        read_weights(path, spec(), strict=True)
    some = read_weights(path, spec(), strict=False)
    assert some.keys() == other.keys() - {"fc2.weight", "fc2.bias"}
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"model.weights=.+: conv1.0.weight is missing"):
        read_weights(path, spec(), strict=False)
    torch.save({**build_model(spec()).state_dict(), "more": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"model.weights=.+: the network has no more"):
        read_weights(path, spec(), strict=True)


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(ConfigError, match=r"model.weights=.+/none.pt: must be an existing file"):
        read_weights(tmp_path / "none.pt", spec(), strict=True)
    path = tmp_path / "weights.pt"
    for content in (b"", b"no weights", b"PK\x03\x04", b"hello world\n", b"epoch,loss\n", b"\x80\xc8weights"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"not a state dict in torch's format"):
            read_weights(path, spec(), strict=True)
    for named in ({"epoch": 3}, {1: torch.zeros(1), "a": torch.zeros(1)}):
        torch.save(named, path)
        with pytest.raises(UserError, match="not a plain state dict"):
            read_weights(path, spec(), strict=True)


# Dropout


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


@pytest.mark.parametrize("name", [*MODELS])
@pytest.mark.parametrize("norm", [Norm.batch, Norm.group])
def test_a_part_is_the_first_units_of_the_network(name, norm):
    spec = ModelSpec(name, norm, 3, 32, 10)
    whole = build_model(spec)
    part = build_part(spec, 2)
    assert [type(module) for module in part.modules()] == [type(module) for module in whole[:2].modules()]
    assert all(torch.isfinite(tensor).all() for tensor in part.state_dict().values())
    part.load_state_dict(whole[:2].state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(part.eval()(images), whole[:2].eval()(images))
