"""From configuration to checked objects."""

import pytest

from pipar_rpc import hydra_compose
from pipar_rpc.base.errors import UserError
from pipar_rpc.models import ALIASES, Norm
from pipar_rpc.plan import load, schema
from tests.support.processes import ROOT

NEEDED = {"custom": "{}._target_=my.build", "sizes": "partition.sizes=[1,2]", "file": "partition.path=x"}
NEEDED["own"] = "data=imagefolder"


@pytest.mark.parametrize("group", ["model", "data", "network", "partition"])
def test_every_choice_composes(group):
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        needed = [NEEDED[path.stem].format(group)] if path.stem in NEEDED else []
        raw, _ = hydra_compose.compose([f"{group}={path.stem}", *needed])
        loaded = load.load(raw)
        assert getattr(loaded, group).name == path.stem


@pytest.mark.parametrize("alias", ALIASES)
def test_models_go_by_their_names_in_the_reference_too(alias):
    raw, _ = hydra_compose.compose([f"model={alias}"])
    assert raw.model.name == ALIASES[alias]
    raw, _ = hydra_compose.compose(["--multirun", f"model={alias},vgg5"])
    assert raw.model.name == ALIASES[alias]


def test_the_yaml_and_the_classes_agree_on_the_defaults():
    raw, _ = hydra_compose.compose(["network=none"])
    written, built_in = load.load(raw), schema.Config()
    assert (written.pipeline, written.optimizer, written.node, written.fault) == (
        *(built_in.pipeline, built_in.optimizer),
        *(built_in.node, built_in.fault),
    )


def test_devices_read_only_their_node_section():
    node = load.parse_node(["epochs=3", "node.threads=2", "node.device=cpu", "--multirun", "bogus=1"])
    assert (node.threads, node.device) == (2, "cpu")
    with pytest.raises(UserError, match=r"node.thread: no such key: did you mean node.threads\?"):
        load.parse_node(["node.thread=2"])
    with pytest.raises(UserError, match=r"node.threads=0: must be >= 1"):
        load.parse_node(["node.threads=0"])


def test_norm_names_are_the_yaml_values():
    assert [norm.name for norm in Norm] == [norm.value for norm in Norm]
