"""Other networks over RPC: the user's own, torchvision's, weights in and out; devices that differ."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
import torchvision
from torch.nn import functional as F

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.data import Batches, DataSpec, Partition, Transform, describe, load_train_part, open_source
from pipar_rpc.models import ModelSpec, Norm, build_model, published
from tests.support.loops import assert_close
from tests.support.overrides import SMALL, merged, sweep_of
from tests.support.processes import ROOT
from tests.support.results import job_dirs, rows_of

EXAMPLE = ROOT / "docs/examples/own_network.py"
PAGE = (ROOT / "docs/networks-and-data.md").read_text()


def output_of(processes):
    (path,) = processes.directory.glob("outputs/*/*")
    return path


def test_the_custom_network_of_the_docs(processes):
    own = processes.directory / EXAMPLE.name
    shutil.copy(EXAMPLE, own)
    (command,) = re.findall(r"^    torchrun .+ -m pipar_rpc (model=custom .+)$", PAGE, flags=re.MULTILINE)
    done = processes.training(3, *command.split(), *SMALL, "devices.overrides.1.pipeline.split_point=2")
    assert done.code == 0, done.err
    path = output_of(processes)
    assert rows_of(path)[0]["split_point"] == "2;1"
    scope: dict = {}
    exec(own.read_text(), scope)  # the user's own code, without this package
    network = scope["build"](channels=3, image_size=8, num_classes=10, width=64)
    network.load_state_dict(torch.load(path / "model.pt"))


PARTS, BATCH_SIZES = (30, 14, 20), (10, 7, 10)
DROPOUT = (
    *("model=custom", "model._target_=tests.support.own_network.dropping"),
    *("partition.name=shards", "pipeline.num_micro_batches=3"),
)
OWN_DATA = ("data.name=custom", "data.train_size=null", "data.num_classes=null", "data.random_flip=false")
DRAWN = (*OWN_DATA, "data._target_=tests.support.own_data.images", "pipeline.num_micro_batches=2")
JOBS = {
    "tokens": (
        *OWN_DATA,
        *("data._target_=tests.support.own_data.tokens", "model=custom", "pipeline.num_micro_batches=3"),
        *("model._target_=tests.support.own_network.for_tokens", "enable_device_val=true"),
    ),
    "random_transforms": (*DRAWN, "epochs=2"),
    "random_transforms_over_wifi": (*DRAWN, "epochs=2", "network.uplink_mbps=50"),
    "weights": (
        *("model=resnet18", "model.weights=before.pt", "pipeline.split_point=4", "optimizer.lr=1e-12"),
        *("pipeline.num_micro_batches=1", "enable_device_val=true"),
    ),
    "dropout": (*DROPOUT, "pipeline.split_point=1"),
    "dropout_over_wifi": (*DROPOUT, "pipeline.split_point=1", "network.uplink_mbps=50"),
    "dropout_cut_elsewhere": (*DROPOUT, "pipeline.split_point=2"),
    "different": (  # split point, N, batch size, link and amount of data
        *("num_devices=3", "model.norm=group", "pipeline.num_micro_batches=3", "partition.name=sizes"),
        *(f"partition.sizes={[*PARTS]}", "data.train_size_per_device=null"),
        "devices.overrides.1.pipeline.split_point=5",
        *("devices.overrides.2.pipeline.split_point=3", f"devices.overrides.2.batch_size={BATCH_SIZES[1]}"),
        "devices.overrides.3.pipeline.num_micro_batches=1",
        "devices.overrides.3.network.uplink_mbps=20",
    ),
    "never_averaged": (
        *("aggregation.every=0", "devices.overrides.1.pipeline.split_point=3"),
        *("devices.overrides.2.batch_size=4", "devices.overrides.2.pipeline.num_micro_batches=3"),
        "devices.overrides.2.network.uplink_mbps=100",
    ),
}


@pytest.fixture(scope="module")
def jobs(module_processes):
    """All in one torchrun, whose third device has nothing to do in most of them; in double precision."""
    torch.manual_seed(7)
    torch.save(
        torchvision.models.resnet18(num_classes=10).state_dict(), module_processes.directory / "before.pt"
    )
    own = ("data.train_size", "epochs")  # in which the jobs differ, as does data.train_size_per_device
    defaults = ("num_devices=2", *(option for option in SMALL if option.startswith(own)))
    sweep = sweep_of(
        module_processes.directory, {name: merged(*defaults, *options) for name, options in JOBS.items()}
    )
    common = (option for option in SMALL if not option.startswith(own))
    done = module_processes.training(4, *common, *sweep, module="tests.support.float64_main")
    assert done.code == 0, done.err
    return dict(zip(JOBS, (path for _, path in sorted(job_dirs(module_processes).items())), strict=True))


def test_weights_go_in_and_come_out_under_torchvisions_names(jobs):
    before, after = (torchvision.models.resnet18(num_classes=10) for _ in range(2))
    before.load_state_dict(torch.load(jobs["weights"].parents[3] / "before.pt"))
    after.load_state_dict(torch.load(jobs["weights"] / "model.pt"))
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5, msg=name)
    assert not torch.equal(before.bn1.running_mean, after.bn1.running_mean)  # it did train
    (row,) = rows_of(jobs["weights"])
    assert len(row["device_val_accuracy"].split(";")) == len(row["each_device_peak_rss_mb"].split(";")) == 2


def reference(parts, batch_sizes, model):
    """Plain training of the whole network on each device's data, then the average."""
    torch.manual_seed(0)
    network = build_model(model)
    initial = {key: value.clone() for key, value in network.state_dict().items()}
    kind = Partition("sizes", sizes=parts)
    spec = DataSpec("synthetic", 3, model.image_size, 10, seed=0, train_size=200, partition=kind)
    source, transform = open_source(spec, None, False), Transform((0.5,) * 3, (0.4,) * 3)
    states = []
    for device, (size, batch_size) in enumerate(zip(parts, batch_sizes, strict=True), start=1):
        network.load_state_dict(initial)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        samples = load_train_part(source, spec, device, len(parts))
        batches = Batches(samples, batch_size, transform, seed=0, device=device)
        for iteration in range(-(-size // batch_size)):
            images, labels = batches.get(1, iteration)
            optimizer.zero_grad()
            F.cross_entropy(network.train()(images), labels).backward()
            optimizer.step()
        states.append({key: value.clone() for key, value in network.state_dict().items()})
    return published(weighted_average(states, parts), model)


@pytest.mark.usefixtures("double_precision")
def test_devices_that_differ_in_everything_average_to_what_plain_training_does(jobs):
    """Each M^k is weighted by its samples."""
    model = ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10)
    assert_close(torch.load(jobs["different"] / "model.pt"), reference(PARTS, BATCH_SIZES, model), 1e-9)


def test_what_differs_is_in_the_row_and_nothing_has_to_be_averaged(jobs):
    (row,) = rows_of(jobs["never_averaged"])
    assert row["split_point"] == "3;1"
    assert row["batch_size"] == "10;4"
    assert row["num_micro_batches"] == "8;3"
    assert row["num_devices"] == "2"
    assert row["test_accuracy"] != ""  # gathered at the end, although nothing was averaged before
    first = 20 * (64 * 2 * 2 * 8 + 8)  # no models cross: activations after unit 3, in 8 bytes, and labels
    second = 20 * (32 * 4 * 4 * 8 + 8)
    assert int(row["uplink_bytes"]) == first + second


def test_dropout_and_shards_are_reproducible_over_rpc(jobs):
    """Dropout is drawn on both sides; server halves run in threads of one process."""
    names = ("dropout", "dropout_over_wifi", "dropout_cut_elsewhere")
    first, again, other = (torch.load(jobs[name] / "model.pt") for name in names)
    for key, value in first.items():
        assert torch.equal(again[key], value), key  # the same cut over other links: to the bit
        torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6, msg=key)  # another cut
    for name in names:
        assert (jobs[name] / "partition.png").stat().st_size > 5000


@pytest.mark.usefixtures("double_precision")
def test_tokens_train_as_in_a_plain_loop(jobs):
    """Integers go into the device half, floats cross, and labels are sequences."""
    kind = Partition("iid", limits=(None, None))
    asked = DataSpec("custom", 3, 8, None, 0, train_size_per_device=20, partition=kind)
    asked = replace(asked, target="tests.support.own_data.tokens")
    source = open_source(asked, None, False)
    known = describe(source, asked)
    torch.manual_seed(0)
    model = ("custom", Norm.batch, 0, 0, 5, "tests.support.own_network.for_tokens")
    network = build_model(ModelSpec(*model, input=known.input))
    initial = {key: value.clone() for key, value in network.state_dict().items()}
    states = []
    for device in (1, 2):
        network.load_state_dict(initial)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        batches = Batches(load_train_part(source, known, device, 2), 10, None, seed=0, device=device)
        for iteration in range(2):
            tokens, following = batches.get(1, iteration)
            optimizer.zero_grad()
            F.cross_entropy(network(tokens), following).backward()
            optimizer.step()
        states.append({key: value.clone() for key, value in network.state_dict().items()})
    assert_close(torch.load(jobs["tokens"] / "model.pt"), weighted_average(states, (20, 20)), 1e-9)
    (row,) = rows_of(jobs["tokens"])
    assert 0 < float(row["test_accuracy"]) < 1  # of the tokens
    assert (jobs["tokens"] / "partition.png").exists()


def test_random_transforms_repeat_to_the_bit_whatever_the_link(jobs):
    first, again = (
        torch.load(jobs[name] / "model.pt") for name in ("random_transforms", "random_transforms_over_wifi")
    )
    for key, value in first.items():
        assert torch.equal(again[key], value), key
