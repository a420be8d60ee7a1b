"""Epsilons are those of Opacus' own accountant, step by step; Laplace noise's add up."""

import math

import pytest
from opacus.accountants import RDPAccountant

from pipar_rpc.base.errors import UserError
from pipar_rpc.privacy.account import gaussian_epsilon, laplace_epsilon, noise_for


def test_gaussian_epsilon_is_that_of_opacus_step_by_step():
    accountant = RDPAccountant()
    for _ in range(50):
        accountant.step(noise_multiplier=1.3, sample_rate=0.02)
    assert gaussian_epsilon(1.3, 0.02, 50, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5))


def test_without_steps_nothing_is_lost_and_without_noise_everything():
    assert gaussian_epsilon(1.0, 0.1, 0, 1e-5) == laplace_epsilon(1.0, 0) == 0
    assert gaussian_epsilon(0.0, 0.1, 1, 1e-5) == laplace_epsilon(0.0, 1) == math.inf


def test_epsilons_of_laplace_noise_add_up():
    assert laplace_epsilon(2.0, 1) == 0.5
    assert laplace_epsilon(2.0, 6) == 3


def test_the_noise_for_a_target_just_keeps_it():
    noise = noise_for("privacy.dpsgd.target_epsilon", 2.0, 0.02, 500, 1e-5)
    assert 1.95 < gaussian_epsilon(noise, 0.02, 500, 1e-5) <= 2.0
    assert gaussian_epsilon(noise * 0.97, 0.02, 500, 1e-5) > 2.0


def test_a_target_that_no_noise_keeps_is_one_line():
    with pytest.raises(UserError, match=r"privacy\.dpsgd\.target_epsilon=1e-06: no noise keeps"):
        noise_for("privacy.dpsgd.target_epsilon", 1e-6, 1.0, 10**6, 1e-5)
