"""What `model.freeze` keeps as it is, for every network."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from pipar_rpc.aggregation.rules import RuleSpec, build_rule
from pipar_rpc.base.errors import ConfigError
from pipar_rpc.models import (
    MODELS,
    ModelSpec,
    Norm,
    build_device_layers,
    build_meta,
    build_model,
    read_weights,
    summarise,
)
from tests.support.commands import run_here

CONV1 = {"conv1.0.weight", "conv1.0.bias", "conv1.1.weight", "conv1.1.bias"}
CONV2 = {name.replace("conv1", "conv2") for name in CONV1}


def spec(**changes) -> ModelSpec:
    values = {"name": "vgg5", "norm": Norm.batch, "channels": 3, "image_size": 32, "num_classes": 10}
    return ModelSpec(**(values | changes))


def own_network(target: str, *frozen: str) -> ModelSpec:
    return spec(name="custom", image_size=8, target=f"tests.support.own_network.{target}", freeze=frozen)


def frozen_in(network: nn.Module) -> set[str]:
    return {name for name, own in network.named_parameters() if not own.requires_grad}


def counting_in(network: nn.Module) -> set[str]:
    """Batch norms whose statistics change in a forward pass in training mode."""
    before = copy.deepcopy(network.state_dict())
    size = 32 if len(network) > 3 else 8
    network.train()(torch.rand(4, 3, size, size))
    names = [name for name in before if name.endswith("running_mean")]
    return {
        n.removesuffix(".running_mean") for n in names if not torch.equal(before[n], network.state_dict()[n])
    }


@pytest.mark.parametrize(
    ("freeze", "names", "counting"),
    [
        ((), set(), {"conv1.1", "conv2.1", "conv3.1"}),
        (0, set(), {"conv1.1", "conv2.1", "conv3.1"}),
        (2, CONV1 | CONV2, {"conv3.1"}),
        (("conv1", "conv2"), CONV1 | CONV2, {"conv3.1"}),
        (("conv[12]",), CONV1 | CONV2, {"conv3.1"}),
        (("conv1.0",), {"conv1.0.weight", "conv1.0.bias"}, {"conv1.1", "conv2.1", "conv3.1"}),
        (("conv1.*", "fc2.bias"), CONV1 | {"fc2.bias"}, {"conv2.1", "conv3.1"}),
        (("fc?.*bias",), {"fc1.1.bias", "fc2.bias"}, {"conv1.1", "conv2.1", "conv3.1"}),
        (("conv?.1.weight",), {f"conv{n}.1.weight" for n in (1, 2, 3)}, {"conv1.1", "conv2.1", "conv3.1"}),
        (("conv?.1",), {f"conv{n}.1.{w}" for n in (1, 2, 3) for w in ("weight", "bias")}, set()),
        (("*.running_*",), set(), set()),
    ],
)
def test_names_and_patterns(freeze, names, counting):
    network = build_model(spec(freeze=freeze))
    assert frozen_in(network) == frozen_in(build_meta(spec(freeze=freeze))) == names
    assert counting_in(network) == counting


@pytest.mark.parametrize("name", MODELS)
def test_both_halves_of_every_network_know(name):
    """As devices build their layers and as the server copies its own: frozen alike, statistics at rest."""
    frozen = spec(name=name, freeze=2)
    whole = build_model(frozen)
    expected = {name for name, _ in whole[:2].named_parameters()}
    assert frozen_in(whole) == frozen_in(build_device_layers(frozen, 3)) == expected
    for half in (build_device_layers(frozen, 2), copy.deepcopy(whole[:2])):
        before = copy.deepcopy(half.state_dict())
        half.train()(torch.rand(4, 3, 32, 32))
        assert all(torch.equal(before[key], own) for key, own in half.state_dict().items())
    assert build_model(spec(name=name)).state_dict().keys() == whole.state_dict().keys()


def test_what_a_network_of_the_users_froze_itself_stays_so():
    """Its batch norm goes on counting, as in plain PyTorch, unless `model.freeze` names it."""
    own = build_model(own_network("frozen_first", "2.1.bias"))
    assert frozen_in(own) == {"0.0.0.weight", "0.0.0.bias", "0.1.weight", "0.1.bias", "1.0.bias", "2.1.bias"}
    assert counting_in(own) == {"0.1"}
    assert counting_in(build_model(own_network("frozen_first", "0"))) == set()
    layers = build_device_layers(own_network("frozen_first", "0"), 1)
    assert counting_in(layers) == set()


def test_weights_are_read_under_their_published_names(tmp_path):
    frozen = spec(name="resnet18", freeze=("conv1", "layer1_*"))
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "w.pt")
    state = read_weights(tmp_path / "w.pt", frozen, strict=True)
    network = build_model(frozen)
    network.load_state_dict(state)
    assert frozen_in(network) == {n for n, _ in network[:3].named_parameters()}


@pytest.mark.parametrize(
    ("of", "line"),
    [
        (spec(freeze=5), r"model\.freeze=5: must be 0\.\.4: there are 5 cut units"),
        (
            spec(freeze=("conv1", "Conv2")),
            r"model\.freeze=Conv2: must be a name or pattern of units \(conv1, ",
        ),
        (spec(freeze=("conv1.9",)), r"or of layers and parameters in them, as conv1\.0\.weight"),
        (spec(freeze=("*",)), r"model\.freeze=\[\*\]: must be something that leaves parameters to train"),
        (own_network("frozen_last", "0", "1"), r"model\.freeze=\[0,1\]: must be something that leaves"),
    ],
)
def test_what_does_not_exist_or_leaves_nothing_is_one_line(of, line):
    with pytest.raises(ConfigError, match=line) as raised:
        build_meta(of)
    assert "\n" not in str(raised.value)


def test_a_unit_without_parameters_has_a_name_too():
    assert frozen_in(build_model(own_network("pooling_first", "0"))) == set()


def test_aggregation_rules_get_the_names_of_what_trains():
    network = build_meta(spec(freeze=("conv*", "*.bias")))
    rule = build_rule(RuleSpec("custom", "tests.models.test_freezing.Names"), network, 2)
    assert rule._rule.parameters == ("fc1.1.weight", "fc2.weight")


class Names:
    """A rule that keeps the names it is given."""

    def __init__(self, parameters):
        self.parameters = parameters

    def aggregate(self, before, networks, samples):
        return networks[0]

    def state(self):
        return {}

    def load(self, state):
        pass


def test_the_table_says_what_trains():
    units = summarise(build_meta(spec(freeze=("conv1", "fc2.bias"))), spec())
    assert [unit.num_parameters - unit.num_trained for unit in units] == [960, 0, 0, 0, 10]
    assert [unit.trained for unit in units] == [False, True, True, True, True]
    shown = run_here("pipar_rpc.models", "vgg5", "--freeze", "[conv1, fc2.bias]").out.splitlines()
    assert [line.split()[-1] for line in shown[1:]] == [
        *("trained", "-------", "0", "18,624", "37,056", "524,416", "1,280", "581,376")
    ]
    assert "trained" not in run_here("pipar_rpc.models", "vgg5").out
    for wrong in ("[*]", "-1"):
        done = run_here("pipar_rpc.models", "vgg5", f"--freeze={wrong}")
        assert done.code == 2
        assert done.err.startswith(f"pipar_rpc: error: --freeze={wrong}: must be a number of first units")
