"""Distance correlation: the definition, written out, and cases with known answers."""

import math

import pytest
import torch

from pipar_rpc.privacy.distance_correlation import distance_correlation


def written_out(x: list[list[float]], y: list[list[float]]) -> float:
    """Equations 2.8 to 2.10 of Szekely et al. (2007), number by number."""
    n = len(x)

    def centred(samples):
        a = [[math.dist(p, q) for q in samples] for p in samples]
        rows = [sum(a[k]) / n for k in range(n)]
        columns = [sum(a[k][i] for k in range(n)) / n for i in range(n)]
        mean = sum(rows) / n
        return [[a[k][i] - rows[k] - columns[i] + mean for i in range(n)] for k in range(n)]

    def covariance(a, b):
        return sum(a[k][i] * b[k][i] for k in range(n) for i in range(n)) / n**2

    a, b = centred(x), centred(y)
    return math.sqrt(covariance(a, b) / math.sqrt(covariance(a, a) * covariance(b, b)))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_it_is_the_definition(offset):
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(17, 2, 3, 3, generator=rng, dtype=torch.float64) + offset
    y = x.flatten(1)[:, :5].sin() + torch.rand(17, 5, generator=rng, dtype=torch.float64)
    expected = written_out(x.flatten(1).tolist(), y.tolist())
    assert 0.3 < expected < 0.95
    assert distance_correlation(x, y) == pytest.approx(expected, abs=1e-9)


def test_scaled_and_turned_samples_have_1():
    """|y_k - y_l| = 3 |x_k - x_l|: theorem 4 (iii)."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(50, 4, generator=rng, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64))
    assert distance_correlation(x, 3 * x @ turned - 7) == pytest.approx(1, abs=1e-9)


def test_independent_samples_have_little():
    rng = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, 2000, 1, generator=rng)
    assert distance_correlation(x, y) < 0.08
    assert distance_correlation(x, x**2) > 0.4  # not correlated, but dependent


def test_nothing_depends_on_what_does_not_vary():
    assert distance_correlation(torch.rand(9, 3), torch.ones(9, 2)) == 0
