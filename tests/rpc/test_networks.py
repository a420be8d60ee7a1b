"""Other networks over RPC: the user's own, torchvision's, weights in and out, devices that differ."""

import re
import shutil

import pytest
import torch
import torchvision
from torch.nn import functional as F

from pipar_rpc.data import Batches, DataSpec, Partition, Transform, load_train_part, open_source
from pipar_rpc.models import ModelSpec, Norm, build_model, published
from pipar_rpc.training.fedavg import weighted_average
from tests.support.loops import assert_close
from tests.support.overrides import SMALL
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
    (command,) = re.findall(r"^    torchrun .+ (model=custom .+)$", PAGE, flags=re.MULTILINE)
    done = processes.torchrun(3, *command.split(), *SMALL, "devices.overrides.1.pipeline.split_point=2")
    assert done.code == 0, done.err
    path = output_of(processes)
    assert rows_of(path)[0]["split_point"] == "2;1"
    scope: dict = {}
    exec(own.read_text(), scope)  # the user's own code, without this package
    network = scope["build"](channels=3, image_size=8, num_classes=10, width=64)
    network.load_state_dict(torch.load(path / "model.pt"))


def test_weights_go_in_and_come_out_under_torchvisions_names(processes):
    torch.manual_seed(7)
    before = torchvision.models.resnet18(num_classes=10)
    torch.save(before.state_dict(), processes.directory / "before.pt")
    overrides = [*SMALL, "model=ResNet18", "pipeline.split_point=4", "model.weights=before.pt"]
    overrides += ["optimizer.lr=1e-12", "pipeline.num_micro_batches=1", "enable_device_val=true"]
    done = processes.torchrun(3, *overrides)
    assert done.code == 0, done.err
    path = output_of(processes)
    after = torchvision.models.resnet18(num_classes=10)
    after.load_state_dict(torch.load(path / "model.pt"))
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5, msg=name)
    assert not torch.equal(before.bn1.running_mean, after.bn1.running_mean)  # it did train
    (row,) = rows_of(path)
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
def test_devices_that_differ_in_everything_average_to_what_plain_training_does(processes):
    """Split point, N, batch size, link and amount of data; each M^k is weighted by its samples."""
    parts, batch_sizes = (30, 14, 20), (10, 7, 10)
    overrides = [*SMALL, "model.norm=group", "partition=sizes", "partition.sizes=[30,14,20]"]
    overrides += ["data.train_size_per_device=null", "devices.overrides.1.pipeline.split_point=5"]
    overrides += ["devices.overrides.2.pipeline.split_point=3", "devices.overrides.2.batch_size=7"]
    overrides += ["devices.overrides.3.pipeline.num_micro_batches=1"]
    overrides += ["devices.overrides.3.network.uplink_mbps=20", "pipeline.num_micro_batches=3"]
    done = processes.torchrun(4, *overrides, module="tests.support.float64_main")
    assert done.code == 0, done.err
    path = output_of(processes)
    model = ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10)
    expected = reference(parts, batch_sizes, model)
    assert_close(torch.load(path / "model.pt"), expected, 1e-9)


def test_dropout_and_shards_are_reproducible_over_rpc(processes):
    """VGG11's dropout is drawn on both sides; server halves run in threads of one process."""
    small = [option for option in SMALL if not option.startswith("data.image_size")]
    overrides = [*small, "model=vgg11", "model.norm=group", "data.image_size=32", "partition=shards"]
    overrides += ["pipeline.num_micro_batches=3", "--multirun"]
    done = processes.torchrun(3, *overrides, "pipeline.split_point=3,10", "network=none,wifi")
    assert done.code == 0, done.err
    jobs = job_dirs(processes)
    first, again, other, _ = (torch.load(jobs[number] / "model.pt") for number in range(4))
    for key, value in first.items():
        assert torch.equal(again[key], value), key  # the same cut over other links: to the bit
        torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6, msg=key)  # another cut
    for path in jobs.values():
        assert (path / "partition.png").stat().st_size > 5000
