"""Counts of how often data was used become the accounts' epsilons, and go on after a resume."""

import math

import pytest

from pipar_rpc.privacy.account import gaussian_epsilon
from pipar_rpc.privacy.ledger import Account, Ledger
from pipar_rpc.privacy.spec import (
    LAPLACE,
    NO_PRIVACY,
    ActivationNoiseSpec,
    DpSgdSpec,
    PrivacySpec,
    UpdateNoiseSpec,
)

DPSGD = DpSgdSpec(1.0, 1.1, None, 1e-5)


def test_each_mechanism_counts_what_it_covers():
    privacy = PrivacySpec(DPSGD, ActivationNoiseSpec(1.0, 4.0), updates=UpdateNoiseSpec(1.0, 2.0))
    ledger = Ledger([Account(privacy, 0.1, 10, 0.5), Account(NO_PRIVACY, 0.1, 10, 0.5)])
    ledger.trained(1, 10, split=True)
    ledger.trained(1, 5, split=True)
    ledger.averaged()
    ledger.averaged()
    assert ledger.epsilons() == {
        "epsilon_dpsgd": (gaussian_epsilon(1.1, 0.1, 15, 1e-5), math.inf),
        "epsilon_activations": (gaussian_epsilon(2.0, 1.0, 2, 1e-5), math.inf),  # each sample at most twice
        "epsilon_updates": (gaussian_epsilon(2.0, 0.5, 2, 1e-5), math.inf),
    }


def test_what_trains_whole_releases_no_activation():
    laplace = PrivacySpec(activations=ActivationNoiseSpec(1.0, 4.0, LAPLACE))
    ledger = Ledger([Account(laplace, 0.1, 10)])
    ledger.trained(1, 10, split=False)
    assert ledger.epsilons()["epsilon_activations"] == (0,)
    ledger.trained(1, 11, split=True)
    assert ledger.epsilons()["epsilon_activations"] == pytest.approx((1,))  # two releases of 2 / 4


def test_without_mechanisms_there_is_no_figure():
    assert set(Ledger([Account(NO_PRIVACY, 0.1, 10)]).epsilons().values()) == {None}


def test_a_loaded_ledger_goes_on():
    def make():
        return Ledger([Account(PrivacySpec(DPSGD), 0.1, 10)])

    whole, first, second = make(), make(), make()
    whole.trained(1, 7, split=True)
    first.trained(1, 4, split=True)
    second.load(first.state())
    second.trained(1, 3, split=True)
    assert second.epsilons() == whole.epsilons()


def test_with_poisson_sampling_a_sample_may_be_in_every_mini_batch():
    poisson = DpSgdSpec(1.0, 1.1, None, 1e-5, "poisson")
    ledger = Ledger([Account(PrivacySpec(poisson, ActivationNoiseSpec(1.0, 4.0, LAPLACE)), 0.1, 10)])
    ledger.trained(1, 7, split=True)
    assert ledger.epsilons()["epsilon_activations"] == pytest.approx((7 * 2 / 4,))


def test_a_budget_is_spent_when_another_epoch_would_exceed_it():
    target = gaussian_epsilon(1.1, 0.1, 25, 1e-5)
    with_target = PrivacySpec(DpSgdSpec(1.0, 1.1, target, 1e-5))
    ledger = Ledger([Account(PrivacySpec(DPSGD), 0.1, 10), Account(with_target, 0.1, 10)])
    for spent in (False, False, True):
        assert bool(ledger.spent()) == spent
        ledger.trained(1, 10, split=True)
        ledger.trained(2, 10, split=True)
    assert ledger.spent().startswith("device 2 has spent epsilon")
    assert f"privacy.dpsgd.target_epsilon={target:g}" in ledger.spent()
