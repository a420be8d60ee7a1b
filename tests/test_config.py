"""Bad input: one line that names key, value and allowed range, before anything is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipar_rpc import composition, config, schema
from pipar_rpc.errors import UserError
from pipar_rpc.models import ALIASES, Norm
from pipar_rpc.plan import make_plan

from .conftest import ROOT


def plan(*overrides, world_size=5, data_root=Path("nowhere"), one_machine=True):
    raw, _ = composition.compose(["node.download=false", *overrides])
    return make_plan(raw, world_size, data_root, one_machine)


def message(*overrides, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        plan(*overrides, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


BAD = {
    # what is wrong: what the line must say
    "pipeline.split_point=0": "pipeline.split_point=0: must be 1..Q",
    "pipeline.split_point=6": "pipeline.split_point=6: must be 1..5 (vgg5 has 5 cut units)",
    "selector.split_points=[99]": "selector.split_points=[99]: must be split points of 1..5 (vgg5)",
    "selector.split_points=[]": "selector.split_points=[]: must be split points from 1, or null for all",
    "selector.profile_iterations=-1": "selector.profile_iterations=-1: must be >= 0",
    "selector.min_gain=2": "selector.min_gain=2.0: must be 0..1",
    "selector.method=bogus": "selector.method",
    "node.memory_limit=0": "node.memory_limit=0.0: must be > 0 MB, or null for no limit",
    "pipeline.split_point=one": "pipeline.split_point: Value 'one' of type 'str' could not be converted",
    "pipeline.num_micro_batches=0": "pipeline.num_micro_batches=0: must be >= 1",
    "num_devices=5": "num_devices=5: must be 1..4 (torchrun started 5 ranks, and one is the server)",
    "num_devices=0": "num_devices=0: must be >= 1",
    "model=vgg7": "model=vgg7: no such choice: did you mean vgg5?",
    "model.name=vgg7": "model.name=vgg7: must be a known model: did you mean vgg5?",
    "model.norm=layer": "model.norm: Invalid value 'layer', expected one of [batch, group, none]",
    "data=cifar": "data=cifar: no such choice: did you mean cifar10?",
    "network=5g": "network=5g: no such choice: did you mean 4g?",
    "network.uplink_mbps=0": "network.uplink_mbps=0.0: must be > 0 Mbit/s",
    "network.jitter_ms=-1": "network.jitter_ms=-1.0: must be >= 0",
    "network.trace=no.csv": "network.trace=no.csv: must be a readable file",
    "network.trace_end=stop": "network.trace_end: Invalid value 'stop'",
    "testbed=raspberry": "testbed=raspberry: no such choice: did you mean raspberry_pi_3b?",
    "testbed.slowdown=0": "testbed.slowdown=0.0: must be > 0",
    "testbed.slowdown=inf": "testbed.slowdown=inf: must be > 0, at most 1e+06",
    "testbed.time_scale=inf": "testbed.time_scale=inf: must be > 0",
    "network.latency_ms=inf": "network.latency_ms=inf: must be >= 0",
    "network.uplink_mbps=1e-300": "network.uplink_mbps=1e-300: must be > 0 Mbit/s",
    "devices.overrides.1.testbed=raspberry_pi_3b": "1.testbed=raspberry_pi_3b: must be single keys",
    "devices.overrides.1.testbed.slowdwn=3": "devices.overrides.1.testbed.slowdwn: must be the same",
    "devices.overrides.1.network=wifi": "devices.overrides.1.network=wifi: must be single keys of network",
    "testbed.calibrate_s=0": "testbed.calibrate_s=0.0: must be > 0 seconds, or null",
    "testbed.profile=no.yaml": "testbed.profile=no.yaml: must be a readable file",
    "testbed.time_scale=0": "testbed.time_scale=0.0: must be > 0",
    "testbed.time_scale=10": "testbed.time_scale=10.0: must be 1 for a device as fast as this machine",
    "strategy=slf": "strategy=slf: must be a known strategy: did you mean sl?",
    "sfl.server=none": "sfl.server: Invalid value",
    "timeline.epochs=-1": "timeline.epochs=-1: must be >= 0",
    "timeline.iteration=0": "timeline.iteration=0: must be >= 1",
    "method=gossip": "method=gossip: no such choice",
    "devices.overrides.1.testbed.time_scale=2": "testbed.time_scale: must be the same for all",
    "network.downlink_mbps=-1": "network.downlink_mbps=-1.0: must be > 0 Mbit/s",
    "network.latency_ms=-1": "network.latency_ms=-1.0: must be >= 0",
    "pipeline.spilt_point=2": "pipeline.spilt_point: no such key: did you mean pipeline.split_point?",
    "epoch=3": "epoch: no such key: did you mean epochs?",
    "+epoch=3": "epoch: no such key: did you mean epochs?",
    "xyz.abc=3": "xyz: no such key",
    "epochs=0": "epochs=0: must be >= 1",
    "batch_size=0": "batch_size=0: must be >= 1",
    "batch_size=360": "batch_size=360: must be 1..359 (device 3 has 359 samples)",
    "seed=-1": "seed=-1: must be >= 0",
    "optimizer.lr=0": "optimizer.lr=0.0: must be > 0",
    "optimizer.momentum=1": "optimizer.momentum=1.0: must be 0 or more and below 1",
    "aggregation.every=-2": "aggregation.every=-2: must be -1 (once per epoch), 0 (never)",
    "fault.timeout_s=0": "fault.timeout_s=0.0: must be > 0 seconds",
    "strategy=fedprox": "strategy=fedprox: must be a known strategy: (one of fl, pipar, sfl, sl)",
    "data.train_size_per_device=400": "data.train_size_per_device=400: must be 1..359 (digits has 1438",
    "data.val_size=359": "data.val_size=359: must be 0..358",
    "data.test_size=301": "data.test_size=301: must be 1..300 (digits holds out 359 samples",
    "data.std=[0]": "data.std=[0.0]: must be > 0",
    "data.mean=[0,0,0]": "data.mean=[0.0, 0.0, 0.0]: must be 1 numbers",
    "data=cifar10": "data=cifar10: put cifar-10-batches-py/",
    "data=imagefolder": "data=imagefolder: node.data_root=nowhere does not exist",
    "node.device=tpu": "node.device=tpu: must be auto, cpu, cuda or cuda:i",
    "node.threads=0": "node.threads=0: must be >= 1",
    "devices.overrides.5.batch_size=10": "devices.overrides.5: devices are numbered 1..4",
    "devices.overrides.2.epochs=10": "devices.overrides.2.epochs: no such key for a single device",
    "devices.overrides.2.pipeline.split_point=9": "devices.overrides.2.pipeline.split_point=9: must be 1..5",
    "devices.overrides.x.batch_size=10": "devices.overrides.x: devices are numbered 1..4",
    "devices.overrides.1=3": "devices.overrides.1=3: must be settings of pipeline, network, testbed",
    "devices.overrides.1.pipeline.x=3": "devices.overrides.1.pipeline.x: no such key",
    "devices.overrides.1.data.name=x": "devices.overrides.1.data.name: must be the same for all",
    "devices.overrides.4.data.train_size_per_device=999": "4.data.train_size_per_device=999: must be 1..359",
    "model=custom": "model._target_=null: must be the dotted name of a function with model=custom",
    "model._target_=my.build": "model._target_=my.build: must be the dotted name of a function with",
    "model.args.width=3": "model.args={'width': 3}: must be empty but with model=custom",
    "model.weights=nowhere.pt": "model.weights=nowhere.pt: must be an existing file",
    "partition=dirichlet2": "partition=dirichlet2: no such choice: did you mean dirichlet?",
    "partition.alpha=0": "partition.alpha=0.0: must be > 0",
    "partition.classes_per_device=0": "partition.classes_per_device=0: must be >= 1",
    "partition=sizes": "partition.sizes=null: must be a list, one number for each device",
    "partition.sizes=[3,-1]": "partition.sizes=[3, -1]: must be numbers > 0",
    "partition=file": "partition.path=null: must be a JSON file",
    "pipeline.split_point=1,2": "pipeline.split_point: several values need --multirun",
    "pipeline.split_point=": "pipeline.split_point",
}


@pytest.mark.parametrize("override", BAD)
def test_bad_input_is_one_line(override):
    assert BAD[override] in message(override)


def test_a_server_alone_is_refused():
    assert "torchrun started 1 rank" in message(world_size=1)


def test_a_sweep_is_refused_for_an_unknown_key_or_choice_in_any_value():
    with pytest.raises(UserError, match="network=5g"):
        composition.compose(["--multirun", "network=4g,5g"])
    _, multirun = composition.compose(["--multirun", "network=4g,wifi", "pipeline.split_point=1,9"])
    assert multirun  # the job with P = 9 will fail on its own


def test_labels_beyond_the_number_of_classes(tmp_path):
    from .test_data import write_mnist

    assert message("data.num_classes=7") == "data.num_classes=7: must be 10 for data=digits"
    write_mnist(tmp_path)
    wrong = message(
        "data=mnist", "data.num_classes=5", "data.val_size=1", "data.test_size=2", data_root=tmp_path
    )
    assert wrong == "data.num_classes=5: must be at least 6 for data=mnist"


def test_missing_training_data_is_the_devices_matter_on_several_machines(tmp_path):
    from .test_data import write_folder

    write_folder(tmp_path, per_class=30)
    for path in (tmp_path / "train").rglob("*.*"):
        path.unlink()
    arguments = ["data=imagefolder", "data.test_size=10", "batch_size=5"]
    assert "no images in train/" in message(*arguments, data_root=tmp_path)
    assert len(plan(*arguments, data_root=tmp_path, one_machine=False).devices) == 4


def test_micro_batches_above_the_batch_size_are_capped_with_a_notice():
    capped = plan("pipeline.num_micro_batches=200", "batch_size=50")
    assert {device.num_micro_batches for device in capped.devices} == {50}
    assert "pipeline.num_micro_batches=200 is capped at batch_size=50" in capped.notices


def test_batch_norm_with_micro_batches_is_noticed():
    assert any("model.norm=batch" in notice for notice in plan().notices)
    assert not plan("model.norm=group").notices


def test_single_devices_may_differ():
    jobs = plan(
        "devices.overrides.2.network.uplink_mbps=5",
        "devices.overrides.2.pipeline.split_point=3",
        "devices.overrides.4.batch_size=20",
        "devices.overrides.4.pipeline.num_micro_batches=50",
    ).devices
    assert [job.uplink.rate.mbps for job in jobs] == [(10,), (5,), (10,), (10,)]
    assert [job.split_point for job in jobs] == [1, 3, 1, 1]
    assert [job.batch_size for job in jobs] == [100, 100, 100, 20]
    assert [job.num_micro_batches for job in jobs] == [8, 8, 8, 20]


def test_deadlines_allow_for_the_emulated_transfers():
    patience = [job.timeout_s for job in plan("fault.timeout_s=10", "num_devices=1").devices]
    activation_s = 3_276_800 * 8 * (1 / 10e6 + 1 / 25e6)
    assert patience[0] > 10 + activation_s


NEEDED = {"custom": "model._target_=my.build", "sizes": "partition.sizes=[1,2]", "file": "partition.path=x"}
NEEDED["own"] = "data=imagefolder"


@pytest.mark.parametrize("group", ["model", "data", "network", "partition"])
def test_every_choice_composes(group):
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        needed = [NEEDED[path.stem]] if path.stem in NEEDED else []
        raw, _ = composition.compose([f"{group}={path.stem}", *needed])
        loaded = config.load(raw)
        assert getattr(loaded, group).name == path.stem


@pytest.mark.parametrize("alias", ALIASES)
def test_models_go_by_their_names_in_the_reference_too(alias):
    raw, _ = composition.compose([f"model={alias}"])
    assert raw.model.name == ALIASES[alias]
    raw, _ = composition.compose(["--multirun", f"model={alias},vgg5"])
    assert raw.model.name == ALIASES[alias]


def test_a_custom_model_with_arguments():
    own = (
        plan("model=custom", "model._target_=tests.own_network.build", "model.args.width=8").devices[0].model
    )
    assert (own.target, own.args) == ("tests.own_network.build", {"width": 8})
    line = message("model=custom", "model._target_=tests.own_network.build", "model.args.depth=8")
    assert "model._target_=tests.own_network.build failed: TypeError: " in line
    line = message("model=custom", "model._target_=tests.own_network.build", "pipeline.split_point=4")
    assert line == "pipeline.split_point=4: must be 1..3 (custom has 3 cut units)"


def test_a_last_batch_too_small_for_batch_norm():
    arguments = ["model=resnet18", "partition=sizes", "partition.sizes=[100,100,100,101]", "batch_size=100"]
    assert message(*arguments).startswith("batch_size=100: must be another number (device 4 has 101 samples")
    plan(*arguments, "model.norm=group")
    capped = plan("model=resnet18", "pipeline.num_micro_batches=100")
    assert {device.num_micro_batches for device in capped.devices} == {50}
    assert (
        "pipeline.num_micro_batches=100 is capped at 50: batch norm in resnet18 needs 2 samples"
        in capped.notices
    )


def test_devices_may_keep_fewer_samples():
    devices = plan("devices.overrides.3.data.train_size_per_device=150").devices
    assert {device.data.partition.limits for device in devices} == {(None, None, 150, None)}


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_is_a_possible_job(path):
    raw, _ = composition.compose([f"experiment={path.stem}"])
    if raw.data.name not in {"digits", "synthetic"}:  # the others need files
        raw, _ = composition.compose([f"experiment={path.stem}", "data=synthetic"])
    assert make_plan(raw, 5, Path("nowhere"), True).devices


def test_the_selector_is_for_pipar_and_the_formula_for_split_networks():
    fixed = message("strategy=fl", "selector.profile_iterations=1")
    assert fixed.startswith("selector.profile_iterations=1: must be 0 but with strategy=pipar")
    line = message("selector.method=paper", "selector.split_points=[5]")
    assert line == "selector.split_points=[5]: must be split points of 1..4 (vgg5)"


def test_an_experiment_may_be_a_sweep():
    _, multirun = composition.compose(["experiment=uplink"])
    assert multirun


def test_the_yaml_and_the_classes_agree_on_the_defaults():
    raw, _ = composition.compose(["network=none"])
    written, built_in = config.load(raw), schema.Config()
    assert (written.pipeline, written.optimizer, written.node, written.fault) == (
        *(built_in.pipeline, built_in.optimizer),
        *(built_in.node, built_in.fault),
    )


def test_devices_read_only_their_node_section():
    node = config.parse_node(["epochs=3", "node.threads=2", "node.device=cpu", "--multirun", "bogus=1"])
    assert (node.threads, node.device) == (2, "cpu")
    with pytest.raises(UserError, match=r"node.thread: no such key: did you mean node.threads\?"):
        config.parse_node(["node.thread=2"])
    with pytest.raises(UserError, match=r"node.threads=0: must be >= 1"):
        config.parse_node(["node.threads=0"])


def test_norm_names_are_the_yaml_values():
    assert [norm.name for norm in Norm] == [norm.value for norm in Norm]


@pytest.mark.parametrize("under_torchrun", [False, True])
def test_the_command_ends_with_code_2_and_writes_nothing(tmp_path, under_torchrun):
    env = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")}
    if under_torchrun:  # as rank 0 sees it; the group is never joined
        env |= {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    command = [sys.executable, "-m", "pipar_rpc", "pipeline.split_point=9"]
    options = {"capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, check=False, cwd=tmp_path, env=env, **options)
    assert done.returncode == 2
    expected = "pipar_rpc: error: pipeline.split_point=9: must be 1..5 (vgg5 has 5 cut units)\n"
    assert done.stderr == expected
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_help_and_config_are_shown_without_torchrun():
    command = [sys.executable, "-m", "pipar_rpc", "--cfg", "job", "network=wifi"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0
    assert "uplink_mbps: 50" in done.stdout
