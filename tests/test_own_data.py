"""partition=own: what is on a device's machine is its data, and nobody else's."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pipar_rpc import composition, config
from pipar_rpc.data import (
    DataSpec,
    Partition,
    load_train_part,
    open_source,
    overlapping,
    partition,
    whereabouts,
)
from pipar_rpc.deployment import _load_data
from pipar_rpc.errors import ConfigError
from pipar_rpc.fedavg import weighted_average
from pipar_rpc.models import ModelSpec, Norm, build_model
from pipar_rpc.node import Node
from pipar_rpc.scout import Scout

from .conftest import Processes
from .loops import CPU, assert_close
from .test_config import message, plan
from .test_netns import needs_namespaces, own_namespaces, start
from .test_rpc import job_dirs, rows_of

COUNTS = {1: {"cat": 4, "dog": 2}, 2: {"dog": 3}}  # device 2 has no cats
EPOCHS, SIZE = 2, 8
NUMBERS = np.random.default_rng(0)


def write_images(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = NUMBERS.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def write_all(root: Path) -> None:
    """A folder for each device, and wherever nobody may look, a file that whoever reads it fails on."""
    for device, counts in COUNTS.items():
        write_images(root / str(device) / "train", counts)
        write_images(root / str(device) / "test", {"cat": 1})
        (root / str(device) / "test" / "cat" / "0.png").write_text("the server's are tested with")
    write_images(root / "server" / "test", {"cat": 2, "dog": 2})
    for nobody in (root / "server" / "train" / "cat", root / "train" / "cat", root / "9" / "train" / "cat"):
        nobody.mkdir(parents=True)
        (nobody / "0.png").write_text("nobody's")
    (root / "3").symlink_to("1")


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
    """Two devices with folders of their own; then a third one, whose folder is really the first one's."""
    root = module_processes.directory / "images"
    write_all(root)
    options = [*overrides(root), "--multirun", "num_devices=2,3"]
    done = module_processes.torchrun(4, *options, module="tests.float64_main")
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
    assert re.search(r"exitcode\s+: 2", done.err)
    assert not (jobs[1] / "model.pt").exists()


@needs_namespaces
def test_hosts_with_folders_of_their_own(processes):
    root = processes.directory / "images"
    write_all(root)
    options = [option for option in overrides(root) if option != "network=none"]
    run = start(processes, "--devices=2", "--network=wifi", "--", *options)
    done = processes.finish(run, timeout=90)
    assert done.code == 0, done.err
    assert own_namespaces(run.pid) == []
    (path,) = processes.directory.glob("outputs/*/*")
    assert_close(torch.load(path / "model.pt"), reference(root), 1e-5)
    assert rows_of(path)[0]["partition"] == "own"


def spec(limits: tuple[int | None, ...] = (), seed: int = 0) -> DataSpec:
    kind = Partition("own", limits=limits)
    return DataSpec("imagefolder", 3, SIZE, None, seed, partition=kind, classes=("cat", "dog"))


def test_all_of_a_machine_is_its_devices():
    labels = torch.arange(7) % 2
    for part in partition(labels, spec(), 3):
        assert sorted(part.tolist()) == list(range(7))
    few = partition(labels, spec(limits=(3, None, 100)), 3)
    assert [len(part) for part in few] == [3, 7, 7]  # at most so many
    assert torch.equal(few[0], partition(labels, spec(limits=(3, 3, 3)), 3)[0])
    assert not torch.equal(few[1], partition(labels, spec(seed=1), 3)[1])


def test_a_device_reads_what_it_trains_on_and_nothing_else(tmp_path):
    write_all(tmp_path)
    source = open_source(spec(), tmp_path / "2", False)
    images = load_train_part(source, spec(), 2, 2)
    assert images.labels.tolist() == [1, 1, 1]
    files = [np.array(Image.open(file)) for file in (tmp_path / "2" / "train" / "dog").iterdir()]
    found = {image.permute(1, 2, 0).numpy().tobytes() for image in images.images}
    assert found == {pixels.tobytes() for pixels in files}
    job = SimpleNamespace(data=spec(limits=(None, 2)), num_devices=2, rank=2)
    assert Scout(Node(tmp_path / "2", "", False, CPU), job).num_samples() == 2


def test_a_place_is_known_whatever_it_is_called_and_its_name_is_not_told(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "inside").mkdir(parents=True)
    two.mkdir()
    (tmp_path / "link").symlink_to(one)
    places = {path.name: whereabouts(path) for path in (one, two, tmp_path / "link", one / "inside")}
    assert places["one"] == places["link"]
    assert places["one"][0] != places["two"][0]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for own in places.values() for digest in own)

    def both(*names):
        return overlapping({name: places[name] for name in names})

    assert both("one", "two") is None
    assert both("two", "one", "link") == ("one", "link")
    assert both("inside", "two", "one") == ("one", "inside")
    assert overlapping({"device1": (), "device2": ()}) is None  # of other partitions


def test_the_server_compares_the_places(tmp_path):
    """As a device tells them, with its counts."""
    devices = [
        SimpleNamespace(data=spec(), batch_size=1, smallest=1, rank=rank, model=SimpleNamespace(name=""))
        for rank in (1, 2)
    ]

    def peers(*places):
        told = [((2,), place) for place in places]
        return [
            SimpleNamespace(name=f"device{number}", ask=lambda method, own=own: own, num_samples=2)
            for number, own in enumerate(told, start=1)
        ]

    node = Node(tmp_path, "x/{device}", False, CPU)
    apart = peers(("a", "c"), ("b", "c"))
    _load_data(apart, devices, node)
    assert [peer.class_counts for peer in apart] == [(2, 0)] * 2
    with pytest.raises(
        ConfigError, match=r"node.data_root=x/\{device\}: .+: device1 and device2 read the same"
    ):
        _load_data(peers(("a", "c"), ("a", "c")), devices, node)


def test_the_server_needs_no_training_images(tmp_path):
    write_all(tmp_path)
    shutil.rmtree(tmp_path / "server" / "train")
    options = ("data=imagefolder", "partition=own", f"node.data_root={tmp_path}/{{device}}", "batch_size=50")
    made = plan(
        *options,
        "data.train_size_per_device=5",
        "devices.overrides.2.data.train_size_per_device=7",
        data_root=tmp_path / "server",
    )
    assert made.devices[0].data.partition.limits == (5, 7, 5, 5)
    assert made.devices[0].data.classes == ("cat", "dog")


def test_what_cannot_be_is_one_line(tmp_path):
    shared = ("data=imagefolder", "partition=own", "node.data_root=images")
    line = "node.data_root=images: must be another folder for each device, with {device} in its name"
    assert message(*shared) == f"{line} (partition=own): device1 and device2 would read the same"
    for name in ("digits", "synthetic", "mnist"):
        same = f"partition=own: must be another one with data={name}, which is the same on every machine"
        assert message("partition=own", f"data={name}") == same
    alone = message(*shared, "num_devices=1", data_root=tmp_path / "server")  # no other folder is needed
    assert alone.startswith(f"data=imagefolder: node.data_root={tmp_path}/server does not exist")


@pytest.mark.parametrize("given", ["~/x/{device}", "{device}", "a b/{device}/it's", "'q/{device}'"])
def test_a_data_root_may_name_the_device(given):
    (argument,) = composition.normalise([f"node.data_root={given}"])
    raw, _ = composition.compose([argument])
    plain = given.strip("'")
    assert raw.node.data_root == plain
    assert composition.normalise([argument]) == [argument]
    node = config.node_of(raw)
    for rank, name in ((0, "server"), (1, "1"), (12, "12")):
        assert node.data_path(rank) == Path(plain.replace("{device}", name)).expanduser()
    if "it's" not in given:
        assert config.parse_node([argument]) == node
