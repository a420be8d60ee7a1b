"""Profiles of real devices: recording them, their files, and which networks they fit."""

import dataclasses
import subprocess
import sys
import time

import pytest
import torch

from pipar_rpc.base.errors import UserError
from pipar_rpc.models import ModelSpec, Norm, build_meta, build_model, summarise
from pipar_rpc.testbed.device_profile import DeviceProfile, read_profile
from pipar_rpc.testbed.unit_timer import run_once, timers
from tests.support.processes import environment

VGG5 = ModelSpec("vgg5", Norm.group, channels=1, image_size=8, num_classes=4)


def profile_of(spec: ModelSpec) -> DeviceProfile:
    network = build_model(spec)
    units = timers(network, torch.device("cpu"), time.perf_counter)
    for size in (2, 6, 2, 6):
        run_once(units, torch.rand(size, 1, 8, 8))
    return DeviceProfile(
        spec.name,
        spec.norm,
        spec.channels,
        spec.image_size,
        spec.num_classes,
        [unit.times() for unit in units],
        machine={"name": "x"},
    )


def test_a_profile_has_times_of_every_unit_and_survives_its_file(tmp_path):
    profile, path = profile_of(VGG5), tmp_path / "pi.yaml"
    names = [unit.name for unit in summarise(build_meta(VGG5), VGG5)]
    assert [unit.name for unit in profile.units] == names
    for unit in profile.units:
        assert set(unit.forward) == set(unit.backward) == {2, 6}
        assert min(*unit.forward.values(), *unit.backward.values()) > 0
    assert min(unit.update for unit in profile.units) > 0
    profile.write(path)
    assert read_profile(path) == profile
    profile.check(path, VGG5, names)


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("vgg11", Norm.group, 1, 8, 4),
        ModelSpec("vgg5", Norm.batch, 1, 8, 4),
        ModelSpec("vgg5", Norm.group, 3, 8, 4),
        ModelSpec("vgg5", Norm.group, 1, 32, 4),
    ],
)
def test_a_profile_of_another_network_is_refused(tmp_path, spec):
    path = tmp_path / "pi.yaml"
    wrong = r"must be a profile of .*; it is of vgg5 \(group norm, 1x8x8 images, 4 classes\)"
    with pytest.raises(UserError, match=wrong):
        profile_of(VGG5).check(path, spec, [])


def test_a_profile_with_other_arguments_is_refused(tmp_path):
    spec = dataclasses.replace(VGG5, args={"width": 512})
    with pytest.raises(UserError, match=r"must be a profile with model\.args"):
        profile_of(VGG5).check(tmp_path / "pi.yaml", spec, [])


def test_a_profile_of_other_units_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be a profile of the units a, b"):
        profile_of(VGG5).check(tmp_path / "pi.yaml", VGG5, ["a", "b"])


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda text: "", "a file made by python -m pipar_rpc.profiler"),
        (lambda text: "units: [", "a file made by python -m pipar_rpc.profiler"),
        (
            lambda text: text.replace("norm: group", "norm: layer"),
            "a file made by python -m pipar_rpc.profiler",
        ),
        (lambda text: text.replace("update: ", "update: -"), "seconds >= 0 for unit"),
        (lambda text: text.replace("2: 0.", "0: 0."), "forward and backward times of unit"),
    ],
)
def test_a_damaged_profile_is_one_line(tmp_path, change, wrong):
    path = tmp_path / "pi.yaml"
    profile_of(VGG5).write(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError) as raised:
        read_profile(path)
    assert str(raised.value).startswith(f"testbed.profile={path}: must be {wrong}")
    assert "\n" not in str(raised.value)


def profiler(directory, *arguments):
    command = [sys.executable, "-m", "pipar_rpc.profiler", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment(), check=False, capture_output=True, text=True, timeout=120
    )


def test_a_profile_can_be_that_of_a_slower_device(tmp_path):
    options = ["vgg5", "--image-size=8", "--batch-sizes=4", "--runs=1", "--slowdown=1000"]
    assert profiler(tmp_path, *options).returncode == 0
    profile = read_profile(tmp_path / "profile_vgg5.yaml")
    assert profile.machine["slowdown"] == "1000"
    assert min(unit.forward[4] + unit.backward[4] for unit in profile.units) > 0.01


def test_the_profiler_as_a_command(tmp_path):
    done = profiler(tmp_path, "vgg5", "--image-size=8", "--batch-sizes=4,2", "--runs=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("profile_vgg5.yaml: 5 units; 4 samples take ")
    profile = read_profile(tmp_path / "profile_vgg5.yaml")
    assert (profile.model, profile.norm, profile.image_size) == ("vgg5", Norm.batch, 8)
    assert list(profile.units[0].forward) == [2, 4]
    assert profile.machine["threads"] == "1"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["vgg6"], "model.name=vgg6: must be a known model: did you mean vgg"),
        (["vgg5", "--batch-sizes=0"], "--batch-sizes=0: must be numbers from 1"),
        (["vgg5", "--slowdown=0"], "--slowdown=0.0: must be > 0"),
        (["vgg5", "--channels=0"], "--channels=0: must be >= 1"),
        (["vgg5", "--threads=100000"], "--threads=100000: must be 1.."),
        (["vgg5", "--arg=width=3"], "--arg=['width=3']: must be absent but for a function of your own"),
        (["vgg5", "--runs=0"], "--runs=0: must be >= 1"),
        (["vgg5", "--device=tpu"], "--device=tpu: must be cpu or a GPU of this machine"),
        (["vgg5", "--output=none/x.yaml"], "--output=none/x.yaml: must be a file in a folder that can be"),
    ],
)
def test_the_profiler_refuses_in_one_line(tmp_path, arguments, line):
    done = profiler(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"pipar_rpc: error: {line}")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
