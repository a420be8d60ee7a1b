"""Counts of how often data was used become the accounts' epsilons, and go on after a resume."""

import math

import pytest
from opacus.accountants import RDPAccountant

from pipar_rpc.privacy.account import gaussian_epsilon
from pipar_rpc.privacy.ledger import Account, Ledger
from pipar_rpc.privacy.spec import (
    LAPLACE,
    NO_PRIVACY,
    POISSON,
    ActivationNoiseSpec,
    DpSgdSpec,
    PrivacySpec,
    UpdateNoiseSpec,
)

DPSGD = DpSgdSpec(1.0, 1.1, None, 1e-5)


def test_each_mechanism_counts_what_it_covers():
    privacy = PrivacySpec(DPSGD, ActivationNoiseSpec(1.0, 4.0), updates=UpdateNoiseSpec(1.0, 2.0))
    ledger = Ledger([Account(privacy, 0.1, 10), Account(NO_PRIVACY, 0.1, 10)])
    ledger.trained(1, 1, 6, split=True)
    ledger.trained(1, 1, 4, split=True)
    ledger.trained(1, 3, 5, split=True)
    ledger.averaged(0.5)
    ledger.averaged(0.5)
    assert ledger.epsilons() == {
        "epsilon_dpsgd": (gaussian_epsilon(1.1, 0.1, 15, 1e-5), math.inf),
        "epsilon_activations": (gaussian_epsilon(2.0, 1.0, 2, 1e-5), math.inf),  # in two epochs
        "epsilon_updates": (gaussian_epsilon(2.0, 0.5, 2, 1e-5), math.inf),
    }


def test_what_trains_whole_releases_no_activation():
    laplace = PrivacySpec(activations=ActivationNoiseSpec(1.0, 4.0, LAPLACE))
    ledger = Ledger([Account(laplace, 0.1, 10)])
    ledger.trained(1, 1, 10, split=False)
    ledger.trained(1, 2, 0, split=True)
    assert ledger.epsilons()["epsilon_activations"] == (0,)
    ledger.trained(1, 2, 1, split=True)  # another mini-batch of the next epoch may have the same sample
    ledger.trained(1, 3, 1, split=True)
    assert ledger.epsilons()["epsilon_activations"] == pytest.approx((1,))  # two releases of 2 / 4


def test_with_poisson_sampling_a_sample_may_be_in_every_mini_batch():
    dpsgd = DpSgdSpec(1.0, 1.1, None, 1e-5, POISSON)
    laplace = PrivacySpec(dpsgd, ActivationNoiseSpec(1.0, 4.0, LAPLACE))
    ledger = Ledger([Account(laplace, 0.1, 10)])
    ledger.trained(1, 1, 3, split=True)
    assert ledger.epsilons()["epsilon_activations"] == pytest.approx((1.5,))


def test_without_mechanisms_there_is_no_figure():
    assert set(Ledger([Account(NO_PRIVACY, 0.1, 10)]).epsilons().values()) == {None}


def test_a_loaded_ledger_goes_on():
    def make():
        return Ledger([Account(PrivacySpec(DPSGD), 0.1, 10)])

    whole, first, second = make(), make(), make()
    whole.trained(1, 1, 7, split=True)
    first.trained(1, 1, 4, split=True)
    second.load(first.state())
    second.trained(1, 1, 3, split=True)
    assert second.epsilons() == whole.epsilons()


def test_a_budget_is_spent_when_another_epoch_would_exceed_it():
    target = gaussian_epsilon(1.1, 0.1, 25, 1e-5)
    with_target = PrivacySpec(DpSgdSpec(1.0, 1.1, target, 1e-5))
    ledger = Ledger([Account(PrivacySpec(DPSGD), 0.1, 10), Account(with_target, 0.1, 10)])
    for epoch, spent in enumerate((False, False, True), start=1):
        assert bool(ledger.spent()) == spent
        ledger.trained(1, epoch, 10, split=True)
        ledger.trained(2, epoch, 10, split=True)
    assert ledger.spent().startswith("device 2 has spent epsilon")
    assert f"privacy.dpsgd.target_epsilon={target:g}" in ledger.spent()


def test_averages_count_with_the_share_of_devices_that_took_part():
    """By Opacus' accountant; when a device is lost, the others are more likely to be chosen."""
    ledger = Ledger([Account(PrivacySpec(updates=UpdateNoiseSpec(1.0, 2.0)), 0.1, 10)])
    accountant = RDPAccountant()
    for share in (0.5, 0.5, 2 / 3):
        ledger.averaged(share)
        accountant.step(noise_multiplier=2.0, sample_rate=share)
    (found,) = ledger.epsilons()["epsilon_updates"]
    assert found == pytest.approx(accountant.get_epsilon(1e-5))
    again = Ledger([Account(PrivacySpec(updates=UpdateNoiseSpec(1.0, 2.0)), 0.1, 10)])
    again.load(ledger.state())
    again.averaged(1.0)
    ledger.averaged(1.0)
    assert again.epsilons() == ledger.epsilons() != {"epsilon_updates": (found,)}


def test_the_share_of_clipped_updates_is_that_since_it_was_asked_for():
    ledger = Ledger([])
    assert ledger.drain_clipped() is None
    ledger.clipped(1, 2)
    ledger.clipped(2, 2)
    assert ledger.drain_clipped() == 0.75
    assert ledger.drain_clipped() is None
