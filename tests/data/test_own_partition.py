"""partition=own: a device's files are its data."""

import re
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from pipar_rpc.base.stopping import Stop
from pipar_rpc.data import (
    load_train_part,
    open_source,
    overlapping,
    partition,
    whereabouts,
)
from pipar_rpc.plan.node import Node
from pipar_rpc.selector.device_profiling import DeviceProfiler
from tests.support.loops import CPU
from tests.support.own_folders import spec, write_all


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
    assert DeviceProfiler(Node(tmp_path / "2", "", False, CPU), Stop(), job).num_samples() == 2


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
