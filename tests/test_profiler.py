"""The profiler as a command."""

from functools import partial

import pytest

from pipar_rpc.base.network_input import NetworkInput
from pipar_rpc.models import ModelSpec, Norm
from pipar_rpc.testbed.device_profile import read_profile
from tests.support.commands import run_here


@pytest.fixture
def profiler(tmp_path, monkeypatch):
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run_here, "pipar_rpc.profiler")


def test_a_profile_can_be_that_of_a_slower_device(tmp_path, profiler):
    options = ["vgg5", "--image-size=8", "--batch-sizes=4", "--runs=1", "--slowdown=1000"]
    assert profiler(*options).code == 0
    profile = read_profile(tmp_path / "profile_vgg5.yaml")
    assert profile.machine["slowdown"] == "1000"
    assert min(unit.forward[4] + unit.backward[4] for unit in profile.units) > 0.01


def test_the_profiler_as_a_command(tmp_path, profiler):
    done = profiler("vgg5", "--image-size=8", "--batch-sizes=4,2", "--runs=1")
    assert done.code == 0, done.err
    assert done.out.startswith("profile_vgg5.yaml: 5 units; 4 samples take ")
    profile = read_profile(tmp_path / "profile_vgg5.yaml")
    assert (profile.model, profile.norm, profile.image_size) == ("vgg5", Norm.batch, 8)
    assert list(profile.units[0].forward) == [2, 4]
    assert profile.machine["threads"] == "1"


def test_what_is_frozen_is_recorded_so(tmp_path, profiler):
    options = ["vgg5", "--image-size=8", "--batch-sizes=4", "--runs=1"]
    assert profiler(*options, "--freeze=2").code == 0
    profile = read_profile(tmp_path / "profile_vgg5.yaml")
    assert profile.spec.freeze == profile.freeze == 2
    assert [unit.backward[4] > 0 for unit in profile.units] == [False, False, True, True, True]
    assert profiler(*options, "--freeze=[conv1, fc2.bias]").code == 0
    assert read_profile(tmp_path / "profile_vgg5.yaml").spec.freeze == ("conv1", "fc2.bias")


def test_a_network_whose_input_is_no_image(tmp_path, profiler):
    target = "tests.support.own_network.for_tokens"
    network = (target, "--input=6:int64", "--num-classes=5")
    done = profiler(*network, "--batch-sizes=2", "--runs=1", "--output=p.yaml")
    assert done.code == 0, done.err
    expected = ModelSpec("custom", Norm.batch, 0, 0, 5, target, input=NetworkInput((6,), "int64"))
    assert read_profile(tmp_path / "p.yaml").spec == expected
    shown = run_here("pipar_rpc.models", *network).out
    assert f"{target}: Q = 2, input 6 int64, norm batch" in shown
    assert " 6x4 " in shown


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["vgg6"], "model.name=vgg6: must be a known model: did you mean vgg"),
        (["vgg5", "--batch-sizes=0"], "--batch-sizes=0: must be numbers from 1"),
        (["vgg5", "--slowdown=0"], "--slowdown=0.0: must be > 0"),
        (["vgg5", "--freeze=[conv9]"], "model.freeze=conv9: must be a name or pattern of units"),
        (["vgg5", "--channels=0"], "--channels=0: must be >= 1"),
        (["vgg5", "--threads=100000"], "--threads=100000: must be 1.."),
        (["vgg5", "--arg=width=3"], "--arg=['width=3']: must be absent but for a function of your own"),
        (["vgg5", "--input=6:int3"], "--input=6:int3: must be sizes with x between them"),
        (["vgg5", "--runs=0"], "--runs=0: must be >= 1"),
        (["vgg5", "--device=tpu"], "--device=tpu: must be cpu or a GPU of this machine"),
        (["vgg5", "--output=none/x.yaml"], "--output=none/x.yaml: must be a file in a folder that can be"),
    ],
)
def test_the_profiler_refuses_in_one_line(tmp_path, profiler, arguments, line):
    done = profiler(*arguments)
    assert done.code == 2
    assert done.err.startswith(f"pipar_rpc: error: {line}")
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
