"""The group `privacy`: each choice turns one mechanism on, and results and folders say which."""

import pytest

from pipar_rpc import hydra_compose
from pipar_rpc.folder_names import protected_name
from tests.support.configuration import plan
from tests.support.overrides import SMALL
from tests.support.processes import ROOT

GROUP = (*SMALL, "model.norm=group")
CHOICES = sorted(path.stem for path in (ROOT / "conf" / "privacy").glob("*.yaml"))


def folder_of(*overrides):
    return protected_name(_root_=hydra_compose.compose(overrides)[0])


@pytest.mark.parametrize("choice", CHOICES)
def test_each_choice_turns_on_what_it_is_named_after(choice):
    made = plan(*GROUP, f"privacy={choice}")
    assert {job.protection for job in made.devices} == {choice}
    assert folder_of(f"privacy={choice}") == ("" if choice == "none" else f"_{choice}")


def test_several_mechanisms_are_all_named():
    options = ("privacy=dpsgd", "privacy.activations.noise_multiplier=1", "pipeline.labels=device")
    assert plan(*GROUP, *options).devices[0].protection == "dpsgd+activations+labels"
    assert folder_of(*options) == "_dpsgd_activations_labels"
    assert plan(*GROUP, "privacy.dpsgd.target_epsilon=2").devices[0].protection == "dpsgd"
