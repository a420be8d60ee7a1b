"""Reconstruction of real images from what leaves the device."""

import sys

import pytest
import torch

from pipar_rpc.base.errors import UserError
from pipar_rpc.compression.coding import NO_CODECS
from pipar_rpc.data import DataSpec, load_held_out, open_source
from pipar_rpc.leakage.decoder import Decoder, mse, reconstruct, ssim, train_decoder
from pipar_rpc.leakage.observation import Crossing, device_activations, observe
from pipar_rpc.learning import Criterion, LossSpec
from pipar_rpc.models import ModelSpec, Norm, build_model

LEARNED = 259


@pytest.fixture(scope="module")
def digits():
    """Handwritten digits, 16x16 pixels, and what leaves a device with P = 1 of an untrained VGG5."""
    spec = DataSpec("digits", 1, 16, 10, seed=0)
    images = load_held_out(open_source(spec, None, False), spec)[1].images / 255
    torch.manual_seed(0)
    network = build_model(ModelSpec("vgg5", Norm.group, 1, 16, 10)).eval()
    labels = torch.zeros(len(images), dtype=torch.int64)

    def sent(noise):
        clear = device_activations(network, 1, images)
        crossing = Crossing(1, NO_CODECS, 5.0, noise)
        return observe(network, clear, labels, crossing, Criterion(LossSpec()), 1, 0).activations

    return images, sent


def error(images, activations):
    decoder = train_decoder(activations[:LEARNED], images[:LEARNED], 5, 0)
    found = reconstruct(decoder, activations[LEARNED:])
    return mse(images[LEARNED:], found), ssim(images[LEARNED:], found)


def test_a_decoder_does_better_than_the_mean_image_and_noise_makes_it_worse(digits):
    images, sent = digits
    scored = images[LEARNED:]
    mean_image = images[:LEARNED].mean(dim=0).expand_as(scored)
    clear, noisy = error(images, sent(0.0)), error(images, sent(0.1))
    assert clear[0] < 0.5 * mse(scored, mean_image)
    assert clear[1] > ssim(scored, mean_image) + 0.2
    assert noisy[0] > 1.5 * clear[0]
    assert noisy[1] < clear[1]
    assert error(images, sent(0.0)) == clear


@pytest.mark.parametrize("shape", [(5, 16, 16), (5, 9, 9), (3, 2, 2), (2, 3, 5), (7,), (6, 300)])
@pytest.mark.parametrize("size", [16, 9])
def test_it_makes_images_of_any_activation(shape, size):
    activations = torch.rand(4, *shape)
    found = Decoder(activations, (3, size, size))(activations).detach()
    assert found.shape == (4, 3, size, size)
    assert 0 <= float(found.min()) < float(found.max()) <= 1


def test_figures_of_known_images():
    torch.manual_seed(0)
    images = torch.rand(3, 1, 8, 8)
    assert mse(images, images + 0.5) == pytest.approx(0.25)
    assert ssim(images, images) == pytest.approx(1)
    assert ssim(images, 1 - images) < 0


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image", None)
    with pytest.raises(UserError, match=r"SSIM needs torchmetrics: pip install \"pipar_rpc\[metrics\]\""):
        ssim(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
