"""Clipping and noise of single samples."""

import torch

from pipar_rpc.leakage.noise import clip_and_noise, median_norm


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_sample_is_clipped_alone():
    samples = torch.stack([torch.full((2, 3), value) for value in (0.1, 1.0, 10.0)]).double()
    clipped = clip_and_noise(samples, 1.0, 0.0, drawn())
    for own, before in zip(clipped, samples, strict=True):
        torch.testing.assert_close(own, before / max(1.0, float(before.norm())), rtol=0, atol=1e-9)
    assert torch.equal(clip_and_noise(torch.zeros(2, 3), 1.0, 0.0, drawn()), torch.zeros(2, 3))


def test_the_noise_is_a_multiple_of_the_norm():
    sent = clip_and_noise(torch.zeros(100, 50, 20), 4.0, 0.5, drawn())
    assert abs(float(sent.std()) - 2.0) < 0.02
    assert abs(float(sent.mean())) < 0.02
    assert torch.equal(sent, clip_and_noise(torch.zeros(100, 50, 20), 4.0, 0.5, drawn()))
    assert not torch.equal(sent, clip_and_noise(torch.zeros(100, 50, 20), 4.0, 0.5, drawn(1)))


def test_the_median_norm():
    assert median_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])) == 5
