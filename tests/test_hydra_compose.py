"""The user's own configuration file: it decides whatever ours would, and the devices get its node keys."""

import json
import shutil
from pathlib import Path

import pytest
from torch.distributed import HashStore

from pipar_rpc import hydra_compose
from pipar_rpc.__main__ import _share_node
from pipar_rpc.base.errors import UserError
from pipar_rpc.jobs import World
from pipar_rpc.plan import load
from pipar_rpc.transport.rendezvous import Meeting
from tests.support.processes import ROOT

MINE = """
defaults:
  - config
  - override model: vgg16
  - _self_
num_devices: 2
node:
  data_root: "{device}"
"""
FORMS = {
    "--config-dir=.": ["--config-dir=.", "--config-name=mine", "seed=1"],
    "between overrides": ["seed=1", "--config-name", "mine", "epochs=2", "--config-dir", "."],
    "short": ["epochs=2", "-cn", "mine", "seed=1", "-cd", "."],
    "short=": ["-cd=.", "seed=1", "-cn=mine"],
    "--config-path": ["seed=1", "--config-path", "copy", "-cn", "mine"],
    "-cp": ["-cp", "copy", "seed=1", "-cn", "mine"],
}


@pytest.fixture
def own_configuration(tmp_path, monkeypatch):
    """A file of the user's beside the package's, and in a copy of the package's."""
    shutil.copytree(ROOT / "conf", tmp_path / "copy")
    for folder in (tmp_path, tmp_path / "copy"):
        (folder / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_the_users_own_file_decides(own_configuration, form):
    arguments = hydra_compose.normalise(FORMS[form])
    assert hydra_compose.normalise(arguments) == arguments
    raw, _ = hydra_compose.compose(arguments)
    assert (raw.num_devices, raw.model.name, raw.seed) == (2, "vgg16", 1)
    assert load.node_of(raw).data_root == "{device}"
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pipar_rpc", *arguments])
        hydra_compose.run_jobs(lambda job, path, number: seen.append(job), own_configuration / "run")
    assert seen == [raw]  # the job has what was checked


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--config-name", "nine"], "--config-name=nine: no such file: did you mean mine? (one of bare, "),
        (["-cn", "bare"], "--config-name=bare: must be a configuration that has `config` or `schema` among"),
        (["-cn", "wrong"], "In 'wrong': ConfigKeyError raised while composing config: Key 'epoch' not in"),
        (["-cn", "torn"], "while parsing a flow sequence"),
        (["--config-path=nowhere"], "--config-path="),
        (["--config-name"], "argument --config-name/-cn: expected one argument"),
        (["--configname=mine"], "unrecognized arguments: --configname=mine"),
    ],
)
def test_bad_files_and_flags_are_one_line(own_configuration, arguments, line):
    texts = {
        "bare": "a: 1",
        "wrong": "defaults: [config, _self_]\nepoch: 3",
        "torn": "defaults: [config\nx: 3",
    }
    for name, text in texts.items():
        Path(f"{name}.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        hydra_compose.compose(["--config-dir=.", *arguments])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_devices_get_the_node_keys_of_the_files(own_configuration):
    arguments = ["-cn", "mine", "-cd=.", "++node.threads=3", "node.timeout_s=300"]
    raw, _ = hydra_compose.compose(arguments)
    in_files = load.node_in_files(raw, arguments)
    assert in_files == {"data_root": "{device}"}
    node = load.parse_node(["node.threads=3"], in_files)
    assert (node.data_root, node.threads) == ("{device}", 3)
    assert load.parse_node(["node.data_root=own"], in_files).data_root == "own"


@pytest.mark.parametrize(("one_machine", "store"), [(True, True), (False, True), (True, False)])
def test_the_server_tells_what_the_devices_do_not_read(caplog, one_machine, store):
    meeting = Meeting(HashStore(), "run", 0, 1.0) if store else None
    world = World(rank=0, size=3, local_rank=0, local_size=3 if one_machine else 1)
    _share_node({"threads": 2, "device": "cpu"}, world, meeting)
    line = "node.threads, node.device: read by rank 0 only: set it on the command line of every machine too"
    assert caplog.messages == ([] if one_machine and store else [line])
    if meeting is not None:
        assert json.loads(meeting.expect("node")) == ({"threads": 2, "device": "cpu"} if one_machine else {})
