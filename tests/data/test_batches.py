"""Mini-batches: order, normalisation and augmentation."""

import pytest
import torch

from pipar_rpc.data import (
    Batches,
    Images,
    Transform,
)

PLAIN = Transform(mean=(0.0,), std=(1.0,))


def batches(count=10, batch_size=4, transform=PLAIN, device=1) -> Batches:
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 4, 4)
    return Batches(Images(images, torch.arange(count)), batch_size, transform, seed=0, device=device)


def test_an_epoch_shows_every_sample_once_in_an_order_of_its_own():
    data = batches()
    assert len(data) == 3
    orders = []
    for epoch in (1, 2):
        labels = [data.get(epoch, i)[1] for i in range(3)]
        assert [len(part) for part in labels] == [4, 4, 2]
        orders.append(torch.cat(labels).tolist())
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1]
    images, labels = data.get(1, 0)
    assert torch.allclose(images[:, 0, 0, 0] * 255, labels.float())
    assert torch.equal(data.get(1, 0)[0], images)  # asked again, the same
    assert not torch.equal(batches(device=2).get(1, 0)[1], labels)


def test_poisson_sampling_draws_each_sample_with_the_same_probability():
    images = torch.zeros(50, 1, 2, 2, dtype=torch.uint8)
    data = Batches(Images(images, torch.arange(50)), 4, PLAIN, seed=0, device=1, poisson=True)
    assert (len(data), data.expected, batches().expected) == (13, 4, 0)
    drawn = [data.get(epoch, i)[1] for epoch in range(1, 101) for i in range(len(data))]
    assert torch.equal(data.get(100, 12)[1], drawn[-1])  # asked again, the same
    sizes = torch.tensor([len(labels) for labels in drawn], dtype=torch.float64)
    assert sizes.mean() == pytest.approx(4, rel=0.03)
    assert sizes.var() == pytest.approx(4 * (1 - 4 / 50), rel=0.1)  # of a binomial distribution
    shares = torch.bincount(torch.cat(drawn), minlength=50) / len(drawn)
    assert shares.min() > 0.05
    assert shares.max() < 0.11  # of a mean of 0.08
    (empty, _), *_ = [data.get(1 + i // 13, i % 13) for i in range(1300) if sizes[i] == 0]
    assert empty.shape == (0, 1, 2, 2)


def test_normalise_takes_the_default_type():
    transform = Transform(mean=(0.5, 0.0), std=(0.25, 2.0))
    images = torch.full((1, 2, 1, 1), 255, dtype=torch.uint8)
    assert transform.normalise(images).flatten().tolist() == [2.0, 0.5]


def test_crops_move_and_flips_mirror_each_image_on_its_own():
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).repeat(300, 1, 1, 1)
    flipped = Transform((0.0,), (1.0,), random_flip=True).augment(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert ((flipped == images).all(dim=(1, 2, 3)) | mirrored).all()
    assert 0.4 < mirrored.float().mean() < 0.6
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    windows = {tuple(padded[0, y : y + 4, x : x + 4].flatten().tolist()) for y in range(3) for x in range(3)}
    cropped = Transform((0.0,), (1.0,), random_crop=1).augment(images, torch.Generator().manual_seed(0))
    assert {tuple(image.flatten().tolist()) for image in cropped} == windows
