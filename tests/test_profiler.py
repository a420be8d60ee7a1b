"""The profiler as a command."""

from functools import partial
from types import SimpleNamespace

import pytest

from pipar_rpc.base import machine_load
from pipar_rpc.base.network_input import NetworkInput
from pipar_rpc.models import ModelSpec, Norm
from pipar_rpc.testbed import unit_timer
from pipar_rpc.testbed.device_profile import read_profile
from pipar_rpc.testbed.steadiness import Steadiness, Timed
from pipar_rpc.testbed.unit_times import UnitTimes
from tests.support.commands import run_here


@pytest.fixture
def profiler(tmp_path, monkeypatch):
    """Runs the command in an empty folder, on a machine on which other tests may run."""
    monkeypatch.chdir(tmp_path)
    return partial(run_here, "pipar_rpc.profiler", "--accept-disturbed")


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


SLOW = UnitTimes("unit", {50: 0.3, 100: 0.2}, {50: 0.3, 100: 0.2}, 0.0)


def disturb(monkeypatch, steadiness, others=0.0):
    """Has the profiler measure such runs, beside such a load."""
    monkeypatch.setattr(unit_timer, "time_units", lambda *args, **options: Timed([SLOW], steadiness))
    monkeypatch.setattr(machine_load, "OtherLoad", lambda: SimpleNamespace(share=lambda: others))


def test_a_disturbed_measurement_is_refused_unless_it_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    disturb(monkeypatch, Steadiness({50: 0.07, 100: 0.02}, {50: 0.6, 100: 0.4}), others=0.48)
    found = ["50 samples take longer than 100 (0.6 s, 0.4 s)"]
    found.append("other processes had 48% of this machine's cores")
    done = run_here("pipar_rpc.profiler", "vgg5")
    assert done.code == 2
    assert done.err.endswith(
        "pipar_rpc: error: this machine was disturbed, so no profile was written: "
        f"{'; '.join(found)} (largest spread 7%). "
        "Run it again when nothing else runs here, or with --accept-disturbed, or more --runs\n"
    )
    assert list(tmp_path.iterdir()) == []
    done = run_here("pipar_rpc.profiler", "vgg5", "--accept-disturbed")
    assert done.code == 0
    assert done.out.endswith("".join(f"disturbed: {reason}\n" for reason in found))
    profile = read_profile(tmp_path / "profile_vgg5.yaml")
    assert (profile.spread, profile.disturbed) == (0.07, found)


def test_the_spread_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    disturb(monkeypatch, Steadiness({50: 0.012, 100: 0.03}, {50: 0.2, 100: 0.4}), others=0.05)
    done = run_here("pipar_rpc.profiler", "vgg5")
    assert done.code == 0, done.err
    assert "repeated runs differ by up to 3.0%" in done.out
    profile = read_profile(tmp_path / "profile_vgg5.yaml")
    assert (profile.spread, profile.disturbed) == (0.03, [])
    assert run_here("pipar_rpc.profiler", "vgg5", "--runs=1").code == 0
    assert read_profile(tmp_path / "profile_vgg5.yaml").spread is None  # one run does not tell


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
