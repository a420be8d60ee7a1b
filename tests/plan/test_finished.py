"""What a run was, from its config.yaml."""

from dataclasses import replace

import pytest

from pipar_rpc.base.errors import UserError
from pipar_rpc.plan.finished import Protection, protection_of, read_finished
from pipar_rpc.privacy.spec import LAPLACE, NO_PRIVACY, ActivationNoiseSpec, PrivacySpec
from tests.support.configuration import plan
from tests.support.finished import finished_run
from tests.support.overrides import SMALL

OVERRIDES = (*SMALL, "model.norm=group", "network=4g", "pipeline.split_point=2", "compression=int8", "seed=3")


def test_the_plan_is_the_runs(tmp_path):
    folder = finished_run(tmp_path, *OVERRIDES)
    assert read_finished(folder / "config.yaml", ()).plan == plan(*OVERRIDES, world_size=3, one_machine=False)


def test_keys_may_have_other_values(tmp_path):
    folder = finished_run(tmp_path, *OVERRIDES)
    found = read_finished(folder / "config.yaml", ["network.uplink_mbps=3", "node.data_root=here"])
    assert found.plan.devices[0].uplink.rate.mbps == (3.0,)
    assert found.node.given_root == "here"
    assert (found.protection, found.tail_units) == (Protection(), 1)


def test_a_file_that_is_no_configuration(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read: while parsing"):
        read_finished(path, ())


def test_what_devices_did_to_activations():
    noise = ActivationNoiseSpec(2.0, 0.5)
    assert protection_of(NO_PRIVACY) == Protection()
    assert protection_of(PrivacySpec(activations=noise)) == Protection(2.0, 0.5)
    with pytest.raises(UserError, match=r"^privacy.activations.distribution=laplace: only gaussian noise"):
        protection_of(PrivacySpec(activations=replace(noise, distribution=LAPLACE)))
