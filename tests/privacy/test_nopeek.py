"""The distance correlation against its definitions in loops, and where its square roots are of 0."""

import pytest
import torch

from pipar_rpc.privacy.distance_correlation import distance_correlation
from pipar_rpc.privacy.nopeek import NoPeek
from tests.support.coding import PART


def textbook(x, y):
    """Szekely, Rizzo and Bakirov, 2007: definitions 3 to 5 and equation 2.10, number by number."""
    n = range(len(x))

    def centred(samples):
        a = [[float(((samples[k] - samples[j]) ** 2).sum()) ** 0.5 for j in n] for k in n]
        mean = sum(map(sum, a)) / len(x) ** 2
        row = [sum(a[k]) / len(x) for k in n]
        column = [sum(a[k][j] for k in n) / len(x) for j in n]
        return [[a[k][j] - row[k] - column[j] + mean for j in n] for k in n]

    def product(a, b):
        return sum(a[k][j] * b[k][j] for k in n for j in n) / len(x) ** 2

    a, b = centred(x), centred(y)
    return (product(a, b) / (product(a, a) * product(b, b)) ** 0.5) ** 0.5


def samples(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [2, 3, 12])
def test_it_is_that_of_the_textbook(count):
    x, y = samples(count, 3, 8, 8), samples(count, 5, seed=1)
    y[:, 0] += x[:, 0, 0, 0]
    found = distance_correlation(x, y)
    assert float(found) == pytest.approx(textbook(x, y), abs=1e-9)
    assert float(found) == pytest.approx(1.0) if count == 2 else float(found) < 1


def test_its_gradient_is_that_of_its_definition():
    x, y = samples(6, 4), samples(6, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: distance_correlation(x, z), y)


def test_it_is_one_of_what_is_only_moved_and_scaled():
    x = samples(9, 4)
    assert float(distance_correlation(x, 3 * x.flip(1) - 7)) == pytest.approx(1.0)
    assert float(distance_correlation(x.float(), 3 * x.float() - 7)) == pytest.approx(1.0)


@pytest.mark.parametrize("equal", ["one sample", "two of five", "all activations", "all inputs"])
def test_equal_samples_have_finite_gradients(equal):
    x, y = samples(5, 3, 4, 4).float(), samples(5, 8, seed=1).float()
    match equal:
        case "one sample":
            x, y = x[:1], y[:1]
        case "two of five":
            x[1], y[1] = x[0], y[0]
        case "all activations":
            y[:] = y[0]
        case _:
            x[:] = x[0]
    leaf = y.clone().requires_grad_()
    term = NoPeek(0.5).loss(PART, x, leaf)
    term.backward()
    assert leaf.grad.isfinite().all()
    if equal == "two of five":
        assert float(term.detach()) == pytest.approx(0.5 * textbook(x.double(), y.double()), abs=1e-6)
    else:
        assert float(term.detach()) == 0
        assert float(leaf.grad.abs().max()) == 0
