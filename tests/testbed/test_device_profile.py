"""Profiles of real devices: their files, and which networks they fit."""

import dataclasses
import time

import pytest
import torch

from pipar_rpc.base.errors import UserError
from pipar_rpc.models import ModelSpec, Norm, build_meta, build_model, summarise
from pipar_rpc.testbed.device_profile import DeviceProfile, read_profile
from pipar_rpc.testbed.unit_timer import run_once, timers

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


def test_a_disturbed_recording_is_told(tmp_path):
    """By what the file notes; a file of an older version notes nothing."""
    profile, path = profile_of(VGG5), tmp_path / "pi.yaml"
    profile.write(path)
    old = "".join(
        line for line in path.read_text().splitlines(True) if not line.startswith(("spread", "disturbed"))
    )
    path.write_text(old)
    assert read_profile(path) == profile
    assert profile.warning(path) is None
    for spread, reasons, told in (
        (0.08, [], None),
        (0.34, [], "repeated runs differ by 34%"),
        (0.34, ["a", "b"], "a; b"),
        (None, ["a"], "a"),
    ):
        dataclasses.replace(profile, spread=spread, disturbed=reasons).write(path)
        line = read_profile(path).warning(path)
        assert line == (
            told
            and f"testbed.profile={path} was recorded on a machine that was disturbed: {told}."
            " Record it again when nothing else runs there"
        )


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


def test_what_is_frozen_is_not_replayed(tmp_path):
    """Of a profile of the whole network: no backward pass of the first units, no update of any frozen one."""
    profile, frozen = profile_of(VGG5), dataclasses.replace(VGG5, freeze=("conv1", "conv2", "fc1"))
    names = [unit.name for unit in profile.units]
    profile.check(tmp_path / "pi.yaml", frozen, names)
    trained = [unit.trained for unit in summarise(build_meta(frozen), frozen)]
    assert trained == [False, False, True, False, True]
    times = profile.times(trained)
    assert [unit.forward for unit in times] == [unit.forward for unit in profile.units]
    assert [max(unit.backward.values()) > 0 for unit in times] == [False, False, True, True, True]
    assert [unit.update > 0 for unit in times] == trained
    assert profile.times([True] * 5) == tuple(profile.units)


def test_a_profile_with_something_frozen_is_for_that_network_alone(tmp_path):
    path, frozen = tmp_path / "pi.yaml", dataclasses.replace(VGG5, freeze=("conv1",))
    profile = dataclasses.replace(profile_of(VGG5), freeze=["conv1"])
    profile.write(path)
    assert read_profile(path) == profile
    names = [unit.name for unit in profile.units]
    profile.check(path, frozen, names)
    for other, said in ((VGG5, "[]"), (dataclasses.replace(VGG5, freeze=2), "2")):
        with pytest.raises(UserError) as raised:
            profile.check(path, other, names)
        line = f"without model.freeze, or with {said}; it has [conv1]"
        assert str(raised.value) == f"testbed.profile={path}: must be a profile {line}"


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
