"""Counts of how often data was used become the accounts' epsilons, and go on after a resume."""

import math

import pytest

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
    ledger = Ledger([Account(privacy, 0.1, 0.5), Account(NO_PRIVACY, 0.1, 0.5)])
    ledger.trained(1, 1, 6, split=True)
    ledger.trained(1, 1, 4, split=True)
    ledger.trained(1, 3, 5, split=True)
    ledger.averaged()
    ledger.averaged()
    assert ledger.epsilons() == {
        "epsilon_dpsgd": (gaussian_epsilon(1.1, 0.1, 15, 1e-5), math.inf),
        "epsilon_activations": (gaussian_epsilon(2.0, 1.0, 2, 1e-5), math.inf),  # in two epochs
        "epsilon_updates": (gaussian_epsilon(2.0, 0.5, 2, 1e-5), math.inf),
    }


def test_what_trains_whole_releases_no_activation():
    laplace = PrivacySpec(activations=ActivationNoiseSpec(1.0, 4.0, LAPLACE))
    ledger = Ledger([Account(laplace, 0.1)])
    ledger.trained(1, 1, 10, split=False)
    ledger.trained(1, 2, 0, split=True)
    assert ledger.epsilons()["epsilon_activations"] == (0,)
    ledger.trained(1, 2, 1, split=True)  # another mini-batch of the next epoch may have the same sample
    ledger.trained(1, 3, 1, split=True)
    assert ledger.epsilons()["epsilon_activations"] == pytest.approx((1,))  # two releases of 2 / 4


def test_with_poisson_sampling_a_sample_may_be_in_every_mini_batch():
    dpsgd = DpSgdSpec(1.0, 1.1, None, 1e-5, POISSON)
    laplace = PrivacySpec(dpsgd, ActivationNoiseSpec(1.0, 4.0, LAPLACE))
    ledger = Ledger([Account(laplace, 0.1)])
    ledger.trained(1, 1, 3, split=True)
    assert ledger.epsilons()["epsilon_activations"] == pytest.approx((1.5,))


def test_without_mechanisms_there_is_no_figure():
    assert set(Ledger([Account(NO_PRIVACY, 0.1)]).epsilons().values()) == {None}


def test_a_loaded_ledger_goes_on():
    def make():
        return Ledger([Account(PrivacySpec(DPSGD), 0.1)])

    whole, first, second = make(), make(), make()
    whole.trained(1, 1, 7, split=True)
    first.trained(1, 1, 4, split=True)
    second.load(first.state())
    second.trained(1, 1, 3, split=True)
    assert second.epsilons() == whole.epsilons()
