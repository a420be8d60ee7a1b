"""DP-SGD over two halves equals a loop over single samples, for every cut and any N."""

import copy

import pytest
import torch
from torch import nn

from pipar_rpc.data import Batches, Images
from pipar_rpc.learning import LearningSpec, OptimizerSpec
from pipar_rpc.models import ModelSpec, Norm, build_model
from pipar_rpc.privacy.dpsgd import half_norm
from pipar_rpc.privacy.spec import DpSgdSpec, PrivacySpec
from tests.support import dpsgd
from tests.support.frozen import make
from tests.support.loops import OPTIMIZER, assert_close, make_batches, train_plain, train_split

pytestmark = pytest.mark.usefixtures("double_precision")

CLASSES, SHAPE = 10, (3, 4, 4)


def private(max_norm=0.5, noise=0.0, **options):
    return PrivacySpec(DpSgdSpec(max_norm, noise, None, 1e-5, **options))


def vgg5():
    return build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=CLASSES))


def built(name):
    torch.manual_seed(0)
    if name == "vgg5":
        return vgg5()
    if name in {"transformer", "convolutions"}:
        network = nn.Sequential(*getattr(dpsgd, name)(SHAPE, CLASSES))
        network(torch.zeros(2, *SHAPE))  # for layers that find their sizes out
        return network
    return make(name)


def batches_for(name):
    """24 samples: two mini-batches of 10 and one of 4."""
    if name == "transformer":
        images = torch.randint(0, 256, (24, *SHAPE), dtype=torch.uint8)
        return Batches(Images(images, torch.randint(0, CLASSES, (24,))), 10, None, seed=0, device=1)
    size = 4 if name == "convolutions" else 8
    return make_batches(24, image_size=size, num_classes=CLASSES, batch_size=10)


def train_single(network, batches, split_point, max_norm, noise=0.0):
    """The reference; its network, and how many gradients it clipped."""
    loop = dpsgd.SingleSamples(network.train(), split_point, max_norm, noise)
    sgd = torch.optim.SGD([own for own in network.parameters() if own.requires_grad], **OPTIMIZER)
    for iteration in range(len(batches)):
        loop.set(*batches.get(1, iteration), 1, iteration)
        sgd.step()
    return network.state_dict(), loop


@pytest.mark.parametrize(
    ("name", "split_points"),
    [
        ("vgg5", (1, 3, 5)),
        ("convolutions", (1, 2, 4)),
        ("transformer", (1, 2, 3)),
        ("pooling_first", (1, 2, 4)),
        ("frozen_middle", (1, 2, 3)),
        ("frozen_last", (1, 2)),
    ],
)
def test_clipping_is_that_of_single_samples(name, split_points):
    network, batches = built(name), batches_for(name)
    for point in split_points:
        reference, loop = train_single(copy.deepcopy(network), batches, point, max_norm=0.5, noise=0.3)
        for number in (1, 3, 10):
            own = copy.deepcopy(network)
            state, report, _ = train_split(own, batches, point, number, privacy=private(noise=0.3))
            assert_close(state, reference, tolerance=1e-9)
            assert all(
                layer.requires_grad == other.requires_grad
                for layer, other in zip(own.parameters(), network.parameters(), strict=True)
            )
        if point == len(network):
            assert report.clipped == (loop.clipped, loop.of)
        assert 0 < loop.clipped <= loop.of


def test_without_noise_and_with_a_large_norm_it_is_plain_training():
    network, batches = built("vgg5"), batches_for("vgg5")
    plain, _, _ = train_plain(copy.deepcopy(network), batches)
    for point, number in ((1, 1), (2, 3), (5, 10)):
        state, report, _ = train_split(
            copy.deepcopy(network), batches, point, number, privacy=private(max_norm=1e9)
        )
        assert_close(state, plain, tolerance=1e-9)
        assert report.clipped.samples == 0


def test_the_squares_of_the_halves_norms_add_up():
    trained = [10, 0, 30, 60]
    for point in range(5):
        halves = [half_norm(2.0, trained, own) for own in (slice(0, point), slice(point, None))]
        assert sum(norm**2 for norm in halves) == pytest.approx(4.0)
    assert half_norm(2.0, trained, slice(0, 4)) == 2


class NoiseOnly(nn.Module):
    """Its gradients are 0."""

    def forward(self, x):
        return x * 0


def test_noise_has_its_deviation_and_is_the_same_for_every_cut_and_n():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 60), nn.Linear(60, 40), nn.Linear(40, CLASSES), NoiseOnly()
    )
    batches = make_batches(20, image_size=4, num_classes=CLASSES, batch_size=20)
    once = LearningSpec(OptimizerSpec(lr=1.0, momentum=0.0))
    before, found = copy.deepcopy(network.state_dict()), []
    for point, number in ((2, 1), (3, 4), (4, 20), (5, 1)):
        own = copy.deepcopy(network)
        state, _, _ = train_split(
            own, batches, point, number, learning=once, privacy=private(max_norm=3.0, noise=2.0)
        )
        found.append(torch.cat([(state[key] - before[key]).flatten() for key in before]))
        assert torch.equal(found[0], found[-1])
    assert float(found[0].std()) == pytest.approx(2.0 * 3.0 / 20, rel=0.03)  # sigma C / B


def test_other_mechanisms_of_learning_come_after_the_noise():
    """Clipping of whole gradients and AdamW see the noised mean."""
    network, batches = built("vgg5"), batches_for("vgg5")
    reference = copy.deepcopy(network)
    loop = dpsgd.SingleSamples(reference, 2, 0.5, 0.3)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.003, weight_decay=0.1)
    for iteration in range(len(batches)):
        loop.set(*batches.get(1, iteration), 1, iteration)
        for half in (reference[:2], reference[2:]):
            nn.utils.clip_grad_norm_(half.parameters(), 0.1)
        optimizer.step()
    spec = OptimizerSpec("adamw", lr=0.003, weight_decay=0.1, momentum=0, clip_norm=0.1)
    state, _, _ = train_split(network, batches, 2, 3, learning=LearningSpec(spec), privacy=private(noise=0.3))
    assert_close(state, reference.state_dict(), tolerance=1e-9)


def test_poisson_sampling_divides_by_the_expected_size_and_bears_empty_mini_batches():
    network, data = built("vgg5"), batches_for("vgg5")
    images = Images(*(torch.cat(own) for own in zip(*(raw(data, i) for i in range(3)), strict=True)))
    batches = Batches(images, 2, data._transform, seed=0, device=1, poisson=True)
    sizes = [len(batches.get(1, iteration)[1]) for iteration in range(len(batches))]
    assert {0, 1} < set(sizes)
    reference = copy.deepcopy(network)
    loop = dpsgd.SingleSamples(reference, 2, 0.5, 0.3)
    sgd = torch.optim.SGD(reference.parameters(), **OPTIMIZER)
    for iteration in range(len(batches)):
        loop.set(*batches.get(1, iteration), 1, iteration, size=2)
        sgd.step()
    for number in (1, 3):
        spec = private(noise=0.3, sampling="poisson")
        state, report, _ = train_split(copy.deepcopy(network), batches, 2, number, privacy=spec)
        assert_close(state, reference.state_dict(), tolerance=1e-9)
        assert (report.samples, report.weight) == (sum(sizes), 2 * len(sizes))


def raw(data, iteration):
    order = data._shuffled(1, iteration)
    return data._data.images[order], data._data.labels[order]
