"""Label inference from gradients, where the answer is known."""

import torch
from torch import nn

from pipar_rpc.compression.coding import NO_CODECS
from pipar_rpc.leakage.labels import infer_labels, some_of_each
from pipar_rpc.leakage.observation import Crossing, observe
from pipar_rpc.learning import Criterion, LossSpec


def test_a_gradient_gets_the_label_of_the_nearest_direction():
    known = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, -0.1]])
    gradients = torch.tensor([[0.01, 0.0], [0.0, -5.0], [3.0, -2.0], [2.0, -3.0]])
    assert infer_labels(known, torch.tensor([4, 4, 7]), gradients).tolist() == [4, 7, 4, 7]


def test_some_samples_of_each_class():
    assert some_of_each(torch.tensor([2, 0, 2, 2, 0, 5]), 2).tolist() == [0, 1, 2, 4, 5]


def labels_found(network: nn.Sequential, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of labels that the gradients at P = 1 tell, with one known sample of each class."""
    crossing = Crossing(1, NO_CODECS, 1.0, 0.0)
    seen = observe(network, inputs, labels, crossing, Criterion(LossSpec()), 1, 0)
    known = some_of_each(labels, 1)
    found = infer_labels(seen.cut_gradients[known], labels[known], seen.cut_gradients)
    return float((found == labels).double().mean())


def test_logits_tell_the_label():
    """Their gradient is p - y: of ten classes, no other has a cosine as large as the own one."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (200,), generator=rng)
    logits = 0.1 * torch.randn(200, 10, generator=rng)
    network = nn.Sequential(nn.Identity(), nn.Identity())
    assert labels_found(network, logits, labels) == 1


def test_directions_that_do_not_depend_on_the_label_tell_nothing():
    gradients = torch.randn(1000, 50, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(1000) % 10
    found = infer_labels(gradients[:100], labels[:100], gradients[100:])
    assert abs(float((found == labels[100:]).double().mean()) - 0.1) < 0.03
