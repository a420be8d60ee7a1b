"""The profile that is inferred from published times: it gives those times back."""

import pytest

from launch.infer import infer, pipelined_seconds, seconds
from pipar_rpc.base.states import num_bytes
from pipar_rpc.models import ModelSpec, Norm, build_meta, summarise
from pipar_rpc.results.published import read_published
from pipar_rpc.testbed.device_profile import DeviceProfile, read_profile
from pipar_rpc.testbed.unit_times import UnitTimes
from tests.support.commands import run_here

KNOWN = read_published().epochs


def profile_of(model: str, image_size: int = 32) -> DeviceProfile:
    units = [
        UnitTimes(name, {10: 0.02 + n / 100, 100: 0.1 + n / 100}, {10: 0.03, 100: 0.2}, 0.001)
        for n, name in enumerate(build_meta(ModelSpec(model, Norm.batch, 3, 32, 10))._modules)
    ]
    return DeviceProfile(model, Norm.batch, 3, image_size, 10, units, machine={"name": "a board"})


@pytest.mark.parametrize("model", KNOWN)
def test_the_published_times_come_out(model):
    profile, published = profile_of(model), KNOWN[model]
    inferred = infer(profile, published)
    network = build_meta(profile.spec)
    activation = summarise(network, profile.spec)[0].activation_bytes
    pipelined = pipelined_seconds(inferred.units[0], activation, published)
    assert 100 * pipelined == pytest.approx(published.epoch_s, rel=1e-4)
    models = (
        num_bytes(network.state_dict()) * 8e-6 * (1 / published.uplink_mbps + 1 / published.downlink_mbps)
    )
    federated = 100 * sum(map(seconds, inferred.units)) + models
    assert federated == pytest.approx(published.epoch_s * published.over_fl, rel=1e-4)


def test_proportions_are_those_of_the_given_profile():
    profile = profile_of("resnet18")
    inferred = infer(profile, KNOWN["resnet18"])
    factors = [
        new.forward[100] / old.forward[100] for new, old in zip(inferred.units, profile.units, strict=True)
    ]
    assert factors[1:] == pytest.approx([factors[1]] * 9, rel=1e-4)
    assert factors[0] < factors[1]


def test_the_script_says_that_it_is_an_inference(tmp_path):
    profile_of("resnet18").write(tmp_path / "here.yaml")
    done = run_here("launch.infer", tmp_path / "here.yaml", "--output", tmp_path / "inferred.yaml")
    assert done.code == 0, done.err
    assert (
        (tmp_path / "inferred.yaml")
        .read_text()
        .startswith("# Not measured: inferred from published epoch times")
    )
    assert read_profile(tmp_path / "inferred.yaml").machine["proportions_from"] == "a board"


def test_a_network_without_published_times_is_refused(tmp_path):
    profile_of("vgg11").write(tmp_path / "vgg11.yaml")
    done = run_here("launch.infer", tmp_path / "vgg11.yaml", "--output", tmp_path / "inferred.yaml")
    assert done.code == 2
    assert "must be of vgg5 or resnet18, images of 3x32x32" in done.err
    assert done.err.count("\n") == 1
