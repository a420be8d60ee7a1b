"""The user's own configuration file: it decides whatever ours would, and the devices get its node keys."""

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from torch.distributed import HashStore

from pipar_rpc import hydra_compose
from pipar_rpc.base.errors import UserError
from pipar_rpc.base.ranks import World
from pipar_rpc.plan import load
from pipar_rpc.server_rank import share_node
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
    share_node({"threads": 2, "device": "cpu"}, world, meeting)
    line = "node.threads, node.device: read by rank 0 only: set it on the command line of every machine too"
    assert caplog.messages == ([] if one_machine and store else [line])
    if meeting is not None:
        assert json.loads(meeting.expect("node")) == ({"threads": 2, "device": "cpu"} if one_machine else {})


@pytest.mark.parametrize("folder", ["plain", "with space", "it's", "a=b,c", "back\\slash", "$x {y} [z]"])
def test_any_folder_can_be_gone_on_in(tmp_path, monkeypatch, folder):
    seen = []
    monkeypatch.setattr("sys.argv", ["pipar_rpc"])
    monkeypatch.chdir(tmp_path)
    hydra_compose.run_jobs(lambda raw, path, number: seen.append((raw, path)), tmp_path / folder)
    ((raw, path),) = seen
    assert path == tmp_path / folder
    assert OmegaConf.is_config(raw)


NAMES = {  # what a job does: how its folder's name ends
    "strategy=fl": "_4g",
    "strategy=sl": "_4g_P1",
    "strategy=sfl": "_4g_P1",
    "strategy=pipar": "_4g_P1_N8",
    "compression=int8": "_4g_P1_N8_int8",
    "compression=topk": "_4g_P1_N8_topk-int8",
    "method=selected": "_4g_selected",
}


@pytest.mark.parametrize("what", NAMES)
def test_names_tell_what_a_job_does(what):
    (composed, *_), _ = hydra_compose._compose([what, "hydra.job.num=0"])
    assert composed.hydra.sweep.subdir.endswith(f"_vgg5_digits{NAMES[what]}")


@pytest.mark.parametrize("given", ["~/x/{device}", "{device}", "a b/{device}/it's", "'q/{device}'"])
def test_a_data_root_may_name_the_device(given):
    (argument,) = hydra_compose.normalise([f"node.data_root={given}"])
    raw, _ = hydra_compose.compose([argument])
    plain = given.strip("'")
    assert raw.node.data_root == plain
    assert hydra_compose.normalise([argument]) == [argument]
    node = load.node_of(raw)
    for rank, name in ((0, "server"), (1, "1"), (12, "12")):
        assert node.data_path(rank) == Path(plain.replace("{device}", name)).expanduser()
    if "it's" not in given:
        assert load.parse_node([argument]) == load.parse_node([f"node.data_root={given}"]) == node


@pytest.mark.parametrize("multirun", [[], ["--multirun", "seed=1,2,3"]])
def test_hydra_may_go_into_the_jobs_folder(tmp_path, monkeypatch, multirun):
    seen = []
    monkeypatch.setattr("sys.argv", ["pipar_rpc", *multirun, "hydra.job.chdir=true"])
    monkeypatch.chdir(tmp_path)
    hydra_compose.run_jobs(lambda raw, path, number: seen.append((Path.cwd(), path.parent)), Path("results"))
    assert set(seen) == {(tmp_path, tmp_path / "results" if multirun else tmp_path)}
    assert len(seen) == (3 if multirun else 1)


@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (["--multirun", "num_devices=2,4"], 4),
        (["--multirun", "num_devices=range(2,7,2)"], 6),
        (["--multirun", "num_devices=int(interval(2,9))"], 9),  # for sweepers that choose
        (["experiment=own"], 5),
        (["experiment=own", "num_devices=3"], 3),
        (["--multirun", "experiment=plain,few", "method=own,many"], 8),
        (["--multirun", "method=many,own", "experiment=few,plain"], 8),
    ],
)
def test_there_are_ranks_for_the_largest_job(tmp_path, arguments, most):
    files = {
        "experiment/own": "hydra: {mode: MULTIRUN, sweeper: {params: {num_devices: '1,5,2', seed: '1,2'}}}",
        "experiment/few": "num_devices: 2",
        "experiment/plain": "seed: 1",
        "method/own": "seed: 2",
        "method/many": "num_devices: 8",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    jobs, multirun = hydra_compose.compose_all([f"--config-dir={tmp_path}", *arguments])
    assert multirun
    assert max(job.num_devices or 0 for job in jobs) == most


def test_the_first_job_of_an_experiment_that_is_a_sweep():
    raw, _ = hydra_compose.compose(["experiment=uplink"])
    assert raw.pipeline.num_micro_batches == 1
    with pytest.raises(UserError, match="model=vgg7: no such choice"):
        hydra_compose.compose(["experiment=compare", "hydra.sweeper.params.model='vgg5,vgg7'"])


@pytest.mark.parametrize(
    ("arguments", "folder", "fixed"),
    [
        (["--config-name=mine"], "runs/a", True),
        (["--config-name=mine", "hydra.run.dir=b"], "b", True),
        (["--config-name=mine", "--multirun", "seed=0,1"], "outputs/pipar/", False),
        (["hydra.run.dir=b/${now:%Y}"], "b/20", False),
    ],
)
def test_a_folder_that_a_file_names_is_as_fixed_as_one_of_the_command_line(
    tmp_path, arguments, folder, fixed
):
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\nhydra: {run: {dir: runs/a}}\n")
    found, same_every_time = hydra_compose.run_folder([f"--config-dir={tmp_path}", *arguments])
    assert str(found).startswith(folder)
    assert same_every_time == fixed
