"""The noise has the distribution that the accounts assume, and belongs to the samples of a mini-batch."""

import pytest
import torch
from scipy import stats

from pipar_rpc.privacy.noise import PrivacyNoise

SHAPE = (40, 500)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    ("draw", "distribution"), [("gaussian_of_samples", "norm"), ("laplace_of_samples", "laplace")]
)
def test_distribution_by_kolmogorov_and_smirnov(secure, draw, distribution):
    drawn = getattr(PrivacyNoise(0, secure, "activations"), draw)(SHAPE, 0)
    least = 1e-6 if secure else 0.01  # secure noise differs from run to run
    assert stats.kstest(drawn.flatten().numpy(), distribution).pvalue > least


def test_whole_tensors_have_it_too():
    drawn = PrivacyNoise(0, False, "dpsgd").gaussian((100, 100), 1, 0, "weight")
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_samples_of_any_length_are_independent_of_each_other_and_within(length):
    drawn = PrivacyNoise(0, False, "activations").gaussian_of_samples((20_000, length), 0)
    both = torch.cat([drawn[1:], drawn[:-1]], dim=1).T
    assert both.isfinite().all()
    assert torch.allclose(torch.cov(both), torch.eye(2 * length, dtype=torch.float64), atol=0.04)
    assert torch.allclose(torch.cov(both.square()), 2 * torch.eye(2 * length, dtype=torch.float64), atol=0.25)


def test_micro_batches_draw_what_the_mini_batch_draws():
    noise = PrivacyNoise(3, False, "activations", 1)
    whole = noise.gaussian_of_samples((10, 2, 3), 0, 1, 5)
    parts = [noise.gaussian_of_samples((size, 2, 3), first, 1, 5) for first, size in ((0, 4), (4, 3), (7, 3))]
    assert torch.equal(torch.cat(parts), whole)
    assert noise.gaussian_of_samples((0, 2, 3), 0, 1, 5).shape == (0, 2, 3)


def test_streams_differ_and_repeat_but_for_secure_noise():
    def drawn(seed=0, secure=False, stream="a", iteration=0):
        return PrivacyNoise(seed, secure, stream).gaussian((4,), iteration)

    assert torch.equal(drawn(), drawn())
    for other in (drawn(seed=1), drawn(stream="b"), drawn(iteration=1), drawn(secure=True)):
        assert not torch.equal(drawn(), other)
    assert not torch.equal(drawn(secure=True), drawn(secure=True))
