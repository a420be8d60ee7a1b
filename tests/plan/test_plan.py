"""Bad input: one line that names key, value and allowed range, before anything is written."""

import math
from pathlib import Path

import pytest

from pipar_rpc import hydra_compose
from pipar_rpc.base.errors import UserError
from pipar_rpc.models import Norm
from pipar_rpc.plan.plan import make_plan
from pipar_rpc.plan.same_training import DEFAULTS
from pipar_rpc.testbed.device_profile import DeviceProfile
from pipar_rpc.testbed.unit_times import UnitTimes
from tests.support.configuration import message, plan
from tests.support.processes import ROOT

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
    "pipeline.labels=both": "pipeline.labels: Invalid value 'both', expected one of [server, device]",
    "pipeline.tail_units=0": "pipeline.tail_units=0: must be 1..Q-1",
    "pipeline.split_point=one": "pipeline.split_point: Value 'one' of type 'str' could not be converted",
    "pipeline.num_micro_batches=0": "pipeline.num_micro_batches=0: must be >= 1",
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
    "node.nope=1": "node.nope: no such key; one of node.allow_public, node.data_root, ",
    "epochs=0": "epochs=0: must be >= 1",
    "until.val_accuracy=0": "until.val_accuracy=0.0: must be above 0 and at most 1, or null",
    "until.test_accuracy=70": "until.test_accuracy=70.0: must be above 0 and at most 1, or null",
    "until.test_acc=0.7": "until.test_acc: no such key: did you mean until.test_accuracy?",
    "batch_size=0": "batch_size=0: must be >= 1",
    "batch_size=360": "batch_size=360: must be 1..359 (device 3 has 359 samples)",
    "seed=-1": "seed=-1: must be >= 0",
    "optimizer.lr=0": "optimizer.lr=0.0: must be > 0",
    "optimizer.momentum=1": "optimizer.momentum=1.0: must be 0 or more and below 1",
    "optimizer.clip_norm=0": "optimizer.clip_norm=0.0: must be > 0, or null for no limit",
    "optimizer=lbfgs": "optimizer=lbfgs: no such choice: ",
    "optimizer._target_=torch.optim.LBFGS": "optimizer=torch.optim.LBFGS: must be one whose step() needs",
    "optimizer._target_=my.Optimizer": "optimizer._target_=my.Optimizer: must be the dotted name of a",
    "optimizer.args.nestrov=true": "optimizer.args.nestrov: no such argument of sgd: did you mean nesterov?",
    "optimizer.name=adamm": "optimizer.name=adamm: must be a known optimiser: did you mean adam?",
    "schedule.name=custom": "schedule._target_=null: must be the dotted name of a function or class",
    "schedule.every=batch": "schedule.every",
    "schedule.warmup=-1": "schedule.warmup=-1: must be >= 0 (number of epochs)",
    "schedule.args.T_max=3": "schedule.args={'T_max': 3}: must be empty with schedule=constant",
    "schedule._target_=torch.optim.lr_scheduler.StepLR": "lr_scheduler.StepLR failed: TypeError",
    "loss=mse": "loss=mse cannot take outputs of shape (2, 10) and labels of shape (2,)",
    "loss.args.weight=[1,2]": "loss=cross_entropy cannot take outputs of shape (2, 10)",
    "loss._target_=my.Loss": "loss._target_=my.Loss: must be the dotted name of a function",
    "metrics.f1=3": "metrics.f1=3: must be a group with a dotted name",
    "metrics.f1._target_=my.F1": "metrics.f1._target_=my.F1: must be the dotted name of a function",
    "participation.fraction=0": "participation.fraction=0.0: must be above 0 and at most 1",
    "participation.per_round=0": "participation.per_round=0: must be >= 1, or null",
    "participation._target_=my.Choice": "participation._target_=my.Choice: must be the dotted name",
    "aggregation.fedprox_mu=-1": "aggregation.fedprox_mu=-1.0: must be >= 0",
    "aggregation.every=-2": "aggregation.every=-2: must be -1 (once per epoch), 0 (never)",
    "aggregation/rule=fedprox": "aggregation/rule=fedprox: no such choice: ",
    "aggregation.rule.name=fedavgn": "name=fedavgn: must be a known rule: did you mean fedavg?",
    "aggregation/rule=custom": "aggregation.rule._target_=null: must be the dotted name of a function",
    "aggregation.rule._target_=my.Rule": "aggregation.rule._target_=my.Rule: must be the dotted name of a",
    "compression=int9": "compression=int9: no such choice: ",
    "compression.activations.name=int9": "compression.activations.name=int9: must be a known codec: ",
    "compression.gradients.name=custom": "compression.gradients._target_=null: must be the dotted name of a",
    "compression.models._target_=my.Codec": "compression.models._target_=my.Codec: must be the dotted name",
    "compression.models.name=topk": "compression.models.name=topk: must be a known codec: ",
    "compression.models.args.x=1": "compression.models.args.x: no such argument of none: it has none",
    "compression.actvations.name=int8": "actvations: no such key: did you mean compression.activations?",
    "devices.overrides.1.compression.models.name=int8": "models: must be the same for all devices",
    "devices.overrides.1.compression.activations.name=int9": "devices.overrides.1.compression.activations",
    "aggregation.rule.args.beta=0.5": "aggregation.rule.args.beta: no such argument of fedavg: it has none",
    "aggregation.rule.name=trimmed-mean": "must be a known rule: did you mean trimmed_mean?",
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
    "devices.overrides.1.network.x=3": "devices.overrides.1.network.x: no such key",
    "devices.overrides.1.pipeline.labels=device": "1.pipeline.labels: must be the same for all devices",
    "devices.overrides.1.data.name=x": "devices.overrides.1.data.name: must be the same for all",
    "devices.overrides.4.data.train_size_per_device=999": "4.data.train_size_per_device=999: must be 1..359",
    "model=custom": "model._target_=null: must be the dotted name of a function or class",
    "model._target_=my.build": "model._target_=my.build: must be the dotted name of a function",
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


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["aggregation.rule.args.beat=0"],
            "args.beat: no such argument of fedavgm: did you mean beta? (one of",
        ),
        (["aggregation.rule.args.parameters=[]"], "args.parameters: no such argument of fedavgm: (one of"),
        (["aggregation.rule.args.beta=1"], "aggregation.rule.args.beta=1: must be 0 or more and below 1"),
        (
            ["aggregation.rule.args.beta=much"],
            "aggregation.rule.args.beta=much: must be 0 or more and below 1",
        ),
        (["aggregation.rule.args.lr=0"], "aggregation.rule.args.lr=0: must be > 0"),
        (
            ["strategy=sl"],
            "aggregation.rule.name=fedavgm: must be fedavg with strategy=sl, which never averages",
        ),
        (["aggregation.every=0"], "aggregation.rule.name=fedavgm: must be fedavg with aggregation.every=0"),
    ],
)
def test_what_a_rule_does_not_take_is_one_line(overrides, line):
    assert line in message("aggregation/rule=fedavgm", *overrides)


def test_a_rule_knows_how_many_devices_there_are():
    plan("aggregation/rule=trimmed_mean")
    line = message("aggregation/rule=trimmed_mean", world_size=4)
    allowed = "0, or 1/3 or more and below 0.5 (of 3 devices 0.25 drops none)"
    assert line == f"aggregation.rule.args.ratio=0.25: must be {allowed}"


def test_gradients_at_the_places_of_activations_have_no_ratio_of_their_own():
    line = message("compression=topk", "+compression.gradients.args.ratio=0.5")
    assert line.startswith("compression.gradients.args.ratio=0.5: must be 0.1 as of activations")
    line = message("compression=topk", "+devices.overrides.2.compression.gradients.args.ratio=0.5")
    assert line.startswith("devices.overrides.2.compression.gradients.args.ratio=0.5: must be 0.1")
    plan("compression=topk", "+compression.gradients.args.ratio=0.1")


@pytest.mark.parametrize(
    ("name", "override", "reason"),
    [
        ("val", "enable_val=false", "enable_val=false, which measures none"),
        ("val", "data.val_size=0", "data.val_size=0, which leaves no validation samples"),
        ("test", "enable_test=false", "enable_test=false, which measures none"),
        *(
            (
                name,
                "aggregation.every=0",
                "aggregation.every=0, where only the last epoch has an averaged network",
            )
            for name in ("val", "test")
        ),
    ],
)
def test_an_accuracy_that_nothing_measures_ends_no_job(name, override, reason):
    key = f"until.{name}_accuracy"
    assert message(f"{key}=0.7", override) == f"{key}=0.7: must be null with {reason}"
    other = {"val": "test", "test": "val"}[name]
    assert plan(override).settings.until == {}
    if override != "aggregation.every=0":
        assert plan(f"until.{other}_accuracy=0.7", override).settings.until == {f"{other}_accuracy": 0.7}


def test_a_server_alone_is_refused():
    assert "torchrun started 1 rank" in message(world_size=1)


def test_a_sweep_is_refused_for_an_unknown_key_or_choice_in_any_value():
    with pytest.raises(UserError, match="network=5g"):
        hydra_compose.compose(["--multirun", "network=4g,5g"])
    _, multirun = hydra_compose.compose(["--multirun", "network=4g,wifi", "pipeline.split_point=1,9"])
    assert multirun  # the job with P = 9 will fail on its own


def test_labels_beyond_the_number_of_classes(tmp_path):
    from tests.support.data_files import write_mnist

    assert message("data.num_classes=7") == "data.num_classes=7: must be 10 for data=digits"
    write_mnist(tmp_path)
    wrong = message(
        "data=mnist", "data.num_classes=5", "data.val_size=1", "data.test_size=2", data_root=tmp_path
    )
    assert wrong == "data.num_classes=5: must be at least 6 for data=mnist"


def test_missing_training_data_is_the_devices_matter_on_several_machines(tmp_path):
    from tests.support.data_files import write_folder

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


def test_a_custom_model_with_arguments():
    own = (
        plan("model=custom", "model._target_=tests.support.own_network.build", "model.args.width=8")
        .devices[0]
        .model
    )
    assert (own.target, own.args) == ("tests.support.own_network.build", {"width": 8})
    line = message("model=custom", "model._target_=tests.support.own_network.build", "model.args.depth=8")
    assert "model._target_=tests.support.own_network.build failed: TypeError: " in line
    line = message("model=custom", "model._target_=tests.support.own_network.build", "pipeline.split_point=4")
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
    raw, _ = hydra_compose.compose([f"experiment={path.stem}"])
    if raw.data.name not in {"digits", "synthetic"}:  # the others need files
        raw, _ = hydra_compose.compose([f"experiment={path.stem}", "data=synthetic"])
    assert make_plan(raw, 5, Path("nowhere"), True).devices


def test_the_selector_is_for_pipar_and_the_formula_for_split_networks():
    fixed = message("strategy=fl", "selector.profile_iterations=1")
    assert fixed.startswith("selector.profile_iterations=1: must be 0 but with strategy=pipar")
    line = message("selector.method=paper", "selector.split_points=[5]")
    assert line == "selector.split_points=[5]: must be split points of 1..4 (vgg5)"


def test_an_experiment_may_be_a_sweep():
    _, multirun = hydra_compose.compose(["experiment=uplink"])
    assert multirun


def test_a_network_with_nothing_to_train_is_refused():
    target = "model._target_=tests.support.own_network.frozen_whole"
    assert f"{target}: must be a function whose network has something to train" in message(
        "model=custom", target, "data=synthetic", "data.image_size=8"
    )


@pytest.mark.parametrize(
    ("frozen", "allowed"),
    [
        ("-1", "a number of first units, 0 or more, or a list of names or patterns"),
        ("true", "a number of first units, 0 or more, or a list of names or patterns"),
        ("conv1", "a number of first units, 0 or more, or a list of names or patterns"),
        ("[[conv1]]", "a number of first units, 0 or more, or a list of names or patterns"),
        ("5", "0..4: there are 5 cut units"),
        ("[conv1,conv9]", "a name or pattern of units (conv1, conv2, conv3, fc1, fc2) or of layers"),
        ("['*']", "something that leaves parameters to train"),
        ("['conv*','fc*']", "something that leaves parameters to train"),
    ],
)
def test_what_cannot_be_frozen(frozen, allowed):
    line = message(f"model.freeze={frozen}")
    assert line.startswith("model.freeze=")
    assert f": must be {allowed}" in line


def test_what_is_frozen_is_part_of_the_network():
    """It goes to the devices with the network, and another training cannot go on from this one."""
    one = plan("model.freeze=[conv1,'*.bias']")
    assert {job.model.freeze for job in one.devices} == {("conv1", "*.bias")}
    assert [unit.trained for unit in one.network.units] == [False, True, True, True, True]
    assert one.checkpoints.same["model.freeze"] == ["conv1", "*.bias"]
    assert plan("model.freeze=2").checkpoints.same["model.freeze"] == 2
    assert plan().checkpoints.same["model.freeze"] == DEFAULTS["model.freeze"] == []
    assert "devices.overrides.1.model" in message("+devices.overrides.1.model.freeze=1")


def test_a_recorded_device_does_not_replay_what_frozen_units_save(tmp_path):
    names, path = ("conv1", "conv2", "conv3", "fc1", "fc2"), tmp_path / "pi.yaml"
    units = [UnitTimes(name, {10: 1.0}, {10: 2.0}, 0.5) for name in names]
    DeviceProfile("vgg5", Norm.batch, 1, 32, 10, units).write(path)
    profiled = (f"testbed.profile={path}", "num_devices=1", "pipeline.split_point=3")
    (job,) = plan(*profiled, "model.freeze=2").devices
    assert [unit.backward[10] for unit in job.speed.profile] == [0, 0, 2, 2, 2]
    assert [unit.update for unit in job.speed.profile] == [0, 0, 0.5, 0.5, 0.5]
    assert plan(*profiled).devices[0].speed.profile == tuple(units)


def test_statistics_that_are_frozen_are_not_those_of_micro_batches():
    """So there is nothing to tell, and resnet's maps of one pixel do not cap N."""
    told = ["batch statistics" in " ".join(plan(f"model.freeze={own}").notices) for own in ("3", "2")]
    assert told == [False, True]
    resnet = ("model=resnet18", "data=synthetic", "batch_size=10", "pipeline.num_micro_batches=10")
    frozen = plan(*resnet, "model.freeze=['*.running_*']").devices[0]
    assert (frozen.num_micro_batches, plan(*resnet).devices[0].num_micro_batches) == (10, 5)


def test_devices_may_have_codecs_of_their_own():
    """With arguments of their own: those of another codec are not theirs."""
    first, second, third = plan(
        *("compression=topk", "compression.activations.args.ratio=0.2", "num_devices=3"),
        *("devices.overrides.2.compression.activations.name=int8",),
        "+devices.overrides.3.compression.activations.args.ratio=0.3",
    ).devices
    assert first.compression == "topk-0.2-0.1/topk/int8"
    assert second.compression == "int8/topk/int8"
    assert third.compression == "topk-0.3-0.1/topk/int8"
    assert plan("compression=bf16").devices[0].compression == "bf16"


def test_deadlines_allow_for_payloads_that_are_larger_than_what_they_stand_for():
    """All values of VGG5's first unit with an index of two bytes each: a half more than without a codec."""
    slow = ("network.uplink_mbps=1", "network.downlink_mbps=1", "batch_size=10", "num_devices=1")
    (as_it_is,) = plan(*slow).devices
    (coded,) = plan(*slow, "compression=topk", "compression.activations.args.ratio=1").devices
    unit = plan(*slow).network.units[0]
    indices = 2 * math.prod(unit.output_shape) * 10
    assert coded.emulated_s - as_it_is.emulated_s == pytest.approx(2 * indices * 8e-6)
    (fewer,) = plan(*slow, "compression=int8").devices
    assert fewer.emulated_s == as_it_is.emulated_s  # an upper limit


def test_another_codec_is_another_training():
    same = [
        plan(*more, "num_devices=2").checkpoints.same
        for more in ((), ("compression=int8",), ("devices.overrides.2.compression.gradients.name=bf16",))
    ]
    assert same[0] != same[1]
    assert same[0] != same[2]
    assert same[2]["devices.overrides.2.compression.gradients.name"] == "bf16"


def test_the_last_units_of_the_device_leave_room_for_the_server():
    """P = Q stays: the whole network is on the device, whatever labels there are."""
    device = "pipeline.labels=device"
    line = message(device, "pipeline.tail_units=5")
    assert line == "pipeline.tail_units=5: must be 1..4 (vgg5 has 5 cut units)"
    line = message(device, "pipeline.tail_units=2", "pipeline.split_point=4")
    both = "(vgg5 has 5 cut units, the last 2 with pipeline.labels=device)"
    assert line == f"pipeline.split_point=4: must be 1..3, or 5 for the whole network on the device {both}"
    cut, whole = (plan(device, f"pipeline.split_point={point}").devices[0] for point in (3, 5))
    assert (cut.tail_units, whole.tail_units) == (1, 0)
    assert plan(device, "strategy=fl").devices[0].tail_units == 0
    crossing = plan("pipeline.split_point=3", "network=4g", "testbed=raspberry_pi_3b").devices[0]
    emulated = plan(device, "pipeline.split_point=3", "network=4g", "testbed=raspberry_pi_3b").devices[0]
    assert emulated.emulated_s > crossing.emulated_s
    assert message(device, "selector.method=paper").startswith("selector.method=paper: must be exhaustive")
    line = message(device, "pipeline.tail_units=2", "selector.split_points=[3,4]")
    assert line.startswith(
        "selector.split_points=[3, 4]: must be split points of 1..3 or 5 with pipeline.labels"
    )


def test_where_devices_share_a_half_a_training_goes_on_with_the_labels_where_they_were():
    """What is on one side for all devices cannot move to the other for each."""
    kept = ("pipeline.labels=device", "pipeline.tail_units=2")
    same = [plan(*own).checkpoints.same for own in (kept, ("strategy=sl", *kept), ("strategy=sl",))]
    assert [own.get("pipeline.labels") for own in same] == [None, "device", "server"]
    assert [own.get("pipeline.tail_units") for own in same] == [None, 2, None]


@pytest.mark.parametrize("key", ["participation.fraction=0.5", "participation.per_round=2"])
def test_where_nothing_is_averaged_all_devices_train(key):
    assert f"{key}: must be left out, for all devices" in message("aggregation.every=0", key)
