"""DP-SGD over two halves equals a loop over single samples, for every cut and any N."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from pipar_rpc.base.errors import UserError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.coordination.build import fill
from pipar_rpc.data import Batches, Images
from pipar_rpc.learning import LearningSpec, LossSpec, OptimizerSpec
from pipar_rpc.models import DropoutStreams, ModelSpec, Norm, build_model
from pipar_rpc.models.freezing import freeze
from pipar_rpc.privacy.dpsgd import gradients_of, half_norm
from pipar_rpc.privacy.spec import DpSgdSpec, PrivacySpec
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.cut import Cut, LocalData
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.exchange import LocalExchange
from pipar_rpc.training.server_half import ServerHalf
from tests.support import dpsgd
from tests.support.coding import EXACT, coded
from tests.support.frozen import make
from tests.support.loops import (
    CPU,
    LEARNING,
    NATIVE,
    OPTIMIZER,
    assert_close,
    make_batches,
    train_plain,
    train_split,
)

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
    if name == "frozen_convolution":
        return freeze(vgg5(), ("conv1.0", "conv2.0.bias"))
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


def train_single(network, batches, split_point, max_norm, noise=0.0, tail=0):
    """The reference; its network, and how many gradients it clipped."""
    loop = dpsgd.SingleSamples(network.train(), split_point, max_norm, noise, tail=tail)
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
        ("frozen_convolution", (1, 2)),
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


@pytest.mark.parametrize(("point", "tail"), [(1, 1), (2, 2)])
def test_units_on_both_sides_of_the_servers_are_clipped_each_by_themselves(point, tail):
    network, batches = built("vgg5"), batches_for("vgg5")
    reference, loop = train_single(copy.deepcopy(network), batches, point, 0.5, noise=0.3, tail=tail)
    on_device = 0
    for number in (1, 3, 10):
        own = copy.deepcopy(network)
        state, report, _ = train_split(
            own, batches, point, number, privacy=private(noise=0.3), tail_units=tail
        )
        assert_close(state, reference, tolerance=1e-9)
        on_device = on_device or report.clipped
        assert report.clipped == on_device
    assert on_device.of == loop.of * 2 // 3  # of three pieces


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


def test_layers_that_move_are_clipped_and_noised_where_they_are():
    """P = 1, 3, 2 in three epochs: the norms of the halves follow the cut, the noise the names."""
    network, data, points, spec = built("vgg5"), batches_for("vgg5"), (1, 3, 2), private(noise=0.3)
    reference = copy.deepcopy(network)
    sgd = torch.optim.SGD(reference.parameters(), **OPTIMIZER)
    for epoch, point in enumerate(points, start=1):
        loop = dpsgd.SingleSamples(reference, point, 0.5, 0.3)
        for iteration in range(len(data)):
            loop.set(*data.get(epoch, iteration), epoch, iteration)
            sgd.step()
    pattern = copy.deepcopy(network)

    def gradients(point, layers, own):
        whole = [sum(weight.numel() for weight in unit.parameters()) for unit in pattern]
        return gradients_of(spec, layers, half_norm(0.5, whole, own), 10, seed=0, device=1)

    def server_half(point, state):
        layers = fill(copy.deepcopy(pattern[point:]), state)
        return layers, DropoutStreams(layers, 0, 1), EXACT, gradients(point, layers, slice(point, None))

    layers, dropout, coding, own = server_half(1, network.state_dict())
    server = ServerHalf(layers, LEARNING, dropout, coding, CPU, Timeline(), gradients=own)

    def cut(point, state):
        layers = fill(copy.deepcopy(pattern[:point]), state)
        own, exchange = gradients(point, layers, slice(0, point)), LocalExchange(server.process)
        return Cut(layers, exchange, EXACT, 3, DropoutStreams(layers, 0, 1), NATIVE, gradients=own)

    idle = lambda iteration, loss: None  # noqa: E731
    device = Device(
        "device1", cut(1, network.state_dict()), LEARNING, LocalData(data), idle, CPU, make_cut=cut
    )
    for epoch, point in enumerate(points, start=1):
        if epoch > 1:
            whole = {key: tensor.clone() for key, tensor in (device.state() | server.state()).items()}
            up = device.recut(point, whole, server.optimizer_state())
            layers, dropout, coding, own = server_half(point, whole)
            server.recut(layers, dropout, coding, up, own)
        device.train(epoch, 0, len(data))
    assert_close(device.state() | server.state(), reference.state_dict(), tolerance=1e-9)
    device.close()


def test_devices_that_share_layers_each_have_their_own_mechanism():
    """One clips and noises, one does neither; they take turns on the same layers."""
    torch.manual_seed(0)
    layers, data = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(2, 6, 3, 2, 2)
    labels, reference = torch.randint(0, 4, (2, 6)), copy.deepcopy(layers)
    own = gradients_of(private(noise=0.3), layers, 0.5, 6, seed=0, device=1)
    first = ServerHalf(layers, LEARNING, DropoutStreams(layers, 0, 1), EXACT, CPU, Timeline(), gradients=own)
    second = first.for_device(DropoutStreams(layers, 0, 2), EXACT, Timeline())
    part, answers = Part(1, 0, 1, 1, 1.0), []
    for half, x, y in zip((first, second), data, labels, strict=True):
        half.process(part, coded(x.clone().requires_grad_()), y, answers.append)
    loop, sgd = (
        dpsgd.SingleSamples(reference, 0, 0.5, 0.3),
        torch.optim.SGD(reference.parameters(), **OPTIMIZER),
    )
    loop.set(data[0], labels[0], 1, 0)
    sgd.step()
    sgd.zero_grad()
    nn.functional.cross_entropy(reference(data[1]), labels[1]).backward()
    sgd.step()
    assert_close(layers.state_dict(), reference.state_dict(), tolerance=1e-9)
    assert (first.clipped().of, second.clipped().of, len(answers)) == (6, 0, 2)


def test_labels_that_do_not_count_are_noticed_in_training():
    network, batches = built("vgg5"), batches_for("vgg5")
    ignoring = LearningSpec(loss=LossSpec(args={"ignore_index": 3}))
    with pytest.raises(UserError, match=r"privacy\.dpsgd: needs a loss in which all samples count alike"):
        train_split(network, batches, 2, 3, learning=ignoring, privacy=private())


@pytest.mark.parametrize("split", [slice(None, 3), slice(1, None)])
def test_a_pass_is_freed_when_it_is_over(split):
    layers = vgg5()[split]
    inputs = torch.randn(4, *((3, 8, 8) if split.start is None else (32, 4, 4)))
    gradients = gradients_of(private(), layers, clip_norm=0.5, batch_size=4, seed=0, device=1)
    passes = []
    for layer in layers.modules():
        layer.register_forward_pre_hook(lambda layer, args: passes.append(weakref.ref(args[0])))
    with gradients.watched():
        layers(inputs.clone().requires_grad_(split.start is not None)).sum().backward()
    gradients.after(Part(epoch=1, iteration=0, index=1, count=1, weight=1.0))
    gc.collect()
    assert passes
    assert not any(ref() is not None for ref in passes)
