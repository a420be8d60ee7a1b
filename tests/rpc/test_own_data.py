"""partition=own: what is on a device's machine is its data, and nobody else's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.models import ModelSpec, Norm, build_model
from tests.support.loops import assert_close
from tests.support.namespaces import needs_namespaces, own_namespaces, start
from tests.support.own_folders import COUNTS, EPOCHS, SIZE, write_all
from tests.support.processes import Processes
from tests.support.results import job_dirs, rows_of


def overrides(root: Path) -> list[str]:
    options = ["data=imagefolder", "partition=own", f"node.data_root={root}/{{device}}", f"epochs={EPOCHS}"]
    options += [f"data.image_size={SIZE}", "data.random_crop=0", "data.random_flip=false", "network=none"]
    options += ["data.mean=[0.5,0.5,0.5]", "data.std=[0.4,0.4,0.4]", "model.norm=group"]
    return [*options, "batch_size=6", "devices.overrides.2.batch_size=3", "pipeline.num_micro_batches=2"]


def reference(root: Path) -> dict[str, torch.Tensor]:
    """Each device trains on all of its own files at once; nothing of the package's data is used."""
    torch.manual_seed(0)
    network = build_model(ModelSpec("vgg5", Norm.group, 3, SIZE, 2))
    average = {key: own.clone() for key, own in network.state_dict().items()}
    moving: dict[int, list[torch.Tensor]] = {}
    for _ in range(EPOCHS):
        states = []
        for device in COUNTS:
            network.load_state_dict(average)
            files = sorted((root / str(device) / "train").glob("*/*.png"))
            pixels = np.stack([np.array(Image.open(file)) for file in files])
            images = (
                torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.get_default_dtype()) / 255 - 0.5
            ) / 0.4
            labels = torch.tensor([("cat", "dog").index(file.parent.name) for file in files])
            gradients = torch.autograd.grad(F.cross_entropy(network(images), labels), [*network.parameters()])
            before = moving.get(device, [torch.zeros(())] * len(gradients))
            moving[device] = [0.9 * old + new for old, new in zip(before, gradients, strict=True)]
            with torch.no_grad():
                for parameter, step in zip(network.parameters(), moving[device], strict=True):
                    parameter.sub_(step, alpha=0.01)
            states.append({key: own.clone() for key, own in network.state_dict().items()})
        average = weighted_average(states, [sum(counts.values()) for counts in COUNTS.values()])
    return average


@pytest.fixture(scope="module")
def sweep(module_processes: Processes):
    """Two devices with folders of their own; then a third one, which shares a rank and, really, a folder."""
    root = module_processes.directory / "images"
    write_all(root)
    options = [*overrides(root), "--multirun", "num_devices=2,3"]
    done = module_processes.training(3, *options, module="tests.support.float64_main")
    return root, done, job_dirs(module_processes)


@pytest.mark.usefixtures("double_precision")
def test_each_device_trains_on_its_own_files(sweep):
    root, done, jobs = sweep
    assert (jobs[0] / "model.pt").exists(), done.err
    assert_close(torch.load(jobs[0] / "model.pt"), reference(root), 1e-9)
    assert [row["partition"] for row in rows_of(jobs[0])] == ["own"] * EPOCHS
    assert (jobs[0] / "partition.png").stat().st_size > 5000


def test_devices_that_read_the_same_folder_are_refused(sweep):
    root, done, jobs = sweep
    line = f"node.data_root={root}/{{device}}: must be another folder for each device, none inside another's"
    assert f"error: {line} (partition=own): device1 and device3 read the same" in done.out
    assert done.code == 2
    assert not (jobs[1] / "model.pt").exists()


@needs_namespaces
def test_one_torchrun_per_host_with_a_folder_of_its_own_over_shaped_links(processes):
    root = processes.directory / "images"
    write_all(root)
    options = [option for option in overrides(root) if option != "network=none"]
    run = start(processes, "--devices=2", "--network=wifi", "--", *options)
    done = processes.finish(run, timeout=200)
    assert done.code == 0, done.err
    assert own_namespaces(run.pid) == []
    (path,) = processes.directory.glob("outputs/*/*")
    assert_close(torch.load(path / "model.pt"), reference(root), 1e-5)
    for row in rows_of(path):
        assert (row["partition"], row["network"], row["num_devices"]) == ("own", "wifi_kernel", "2")
        assert row["bound_s"] == ""  # real links are not timed
