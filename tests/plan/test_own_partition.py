"""partition=own: what a plan makes of it."""

import shutil

from tests.support.configuration import message, plan
from tests.support.own_folders import write_all


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
