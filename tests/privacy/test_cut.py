"""Split training with mechanisms at the cut against a plain loop that applies the same by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from pipar_rpc.base.dotted import Choice
from pipar_rpc.base.errors import LostError, UserError
from pipar_rpc.base.microbatch import Part, split_batch
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.models import DropoutStreams, ModelSpec, Norm, build_model
from pipar_rpc.models.freezing import freeze
from pipar_rpc.privacy.activations import clipped
from pipar_rpc.privacy.cut import CutPrivacy
from pipar_rpc.privacy.noise import PrivacyNoise
from pipar_rpc.privacy.registry import build_cut_privacy, check_own
from pipar_rpc.privacy.spec import GAUSSIAN, LAPLACE, ActivationNoiseSpec, PrivacySpec
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.server_half import ServerHalf
from tests.support.coding import EXACT, PART
from tests.support.loops import CPU, LEARNING, OPTIMIZER, assert_close, make_batches, train_plain, train_split

SEED, RANK = 3, 1
INT8 = Coding(CodingSpec(CodecSpec("int8"), CodecSpec("int8")), SEED, RANK)
HALVED = Choice(target="tests.support.mechanisms.Halved")
MECHANISMS = {
    "gaussian": PrivacySpec(activations=ActivationNoiseSpec(0.5, 0.3)),
    "laplace": PrivacySpec(activations=ActivationNoiseSpec(2.0, 0.01, LAPLACE)),
    "own": PrivacySpec(cut=HALVED),
    "all": PrivacySpec(nopeek=0.7, cut=HALVED, activations=ActivationNoiseSpec(0.5, 0.3)),
}


def network():
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10))


def batches():
    return make_batches(20, 8, 10, batch_size=9)  # the last batch has 2


def correlation(x, y):
    """The distance correlation by matrices: H D H with H = I - 1/n."""
    count = len(x)
    if count == 1:
        return y.sum() * 0
    centring = torch.eye(count) - 1 / count
    a, b = (
        centring @ torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist") @ centring
        for z in (x.flatten(1), y.flatten(1))
    )
    return ((a * b).sum() / ((a * a).sum() * (b * b).sum()) ** 0.5) ** 0.5


def release_by_hand(spec, activation, noise):
    """Sample by sample; `noise` is that of these samples."""
    if spec.cut:
        activation = activation * 0.5
    if spec.activations is None:
        return activation
    norm, scale = spec.activations.max_norm, spec.activations.noise_multiplier * spec.activations.max_norm
    order = 1 if spec.activations.distribution == LAPLACE else 2
    samples = []
    for own, drawn in zip(activation, noise, strict=True):
        length = (own.abs() ** order).sum() ** (1 / order)
        samples.append((own * norm / length if length > norm else own) + scale * drawn)
    return torch.stack(samples)


def noise_of(spec, shape, iteration):
    """What is drawn for a whole mini-batch."""
    source = PrivacyNoise(SEED, False, "activations", RANK)
    laplace = spec.activations is not None and spec.activations.distribution == LAPLACE
    draw = source.laplace_of_samples if laplace else source.gaussian_of_samples
    return draw(shape, 0, 1, iteration)


def train_by_hand(network, spec, split_point, num_micro_batches, coding):
    """A plain loop of two halves: losses of micro-batches, and what mechanisms and codecs do at the cut."""
    halves = network[:split_point], network[split_point:]
    optimizers = [torch.optim.SGD(half.parameters(), **OPTIMIZER) for half in halves]
    for iteration in range(len(batches())):
        images, labels = batches().get(1, iteration)
        noise = noise_of(spec, halves[0](images).shape, iteration)
        for part, x, y, _ in split_batch(images, labels, num_micro_batches, 1, iteration):
            activation = halves[0](x)
            released = release_by_hand(spec, activation, noise[part.first : part.first + len(x)])
            sent = coding.encode_activation(part, released)
            decoded = coding.decode_activation(sent, CPU).clone().requires_grad_()
            share = len(x) / len(images)
            (F.cross_entropy(halves[1](decoded), y) * share).backward()
            gradient = coding.decode_gradient(sent, coding.encode_gradient(part, sent, decoded.grad), CPU)
            further = spec.nopeek * correlation(x, activation) if spec.nopeek else 0
            further = further + (activation.square().mean() if spec.cut else 0)
            ((released * gradient).sum() + share * further).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return network.state_dict()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("coding", [EXACT, INT8], ids=["exact", "int8"])
@pytest.mark.parametrize(("name", "split_point"), [*((name, 1) for name in MECHANISMS), ("all", 3)])
def test_split_training_equals_a_plain_loop_with_the_same_at_the_cut(name, split_point, coding):
    spec = MECHANISMS[name]
    for num_micro_batches in (1, 4, 9):
        own, reference = network(), network()
        expected = train_by_hand(reference, spec, split_point, num_micro_batches, coding)
        privacy = build_cut_privacy(spec, SEED, RANK)
        state, _, _ = train_split(
            own, batches(), split_point, num_micro_batches, coding=coding, mechanisms=privacy
        )
        assert_close(state, expected, 1e-9)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("distribution", [GAUSSIAN, LAPLACE])
def test_noise_does_not_depend_on_n(distribution):
    spec = PrivacySpec(activations=ActivationNoiseSpec(0.5, 0.3, distribution))
    states = [
        train_split(network(), batches(), 2, count, mechanisms=build_cut_privacy(spec, SEED, RANK))[0]
        for count in (1, 5)
    ]
    assert_close(*states, 1e-9)
    plain, _, _ = train_plain(network(), batches())
    assert any(not torch.allclose(plain[name], states[0][name]) for name in plain)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("distribution", [GAUSSIAN, LAPLACE])
def test_without_noise_and_clipping_it_is_plain_training(distribution):
    spec = PrivacySpec(activations=ActivationNoiseSpec(1e30, 0.0, distribution))
    state, _, _ = train_split(network(), batches(), 2, 3, mechanisms=build_cut_privacy(spec))
    assert_close(state, train_plain(network(), batches())[0], 1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_clipping_and_its_gradient_sample_by_sample(order):
    values = torch.randn(6, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values[1], values[2] = 0, values[2] * 0.01  # of norm 0, and far below C
    weights, leaf = torch.randn(6, 3, 4, dtype=torch.float64), values.clone().requires_grad_()
    (clipped(leaf, 1.5, order) * weights).sum().backward()
    for index, own in enumerate(values):
        x = own.clone().requires_grad_()
        norm = (x.abs() ** order).sum() ** (1 / order)
        y = x if float(norm.detach()) <= 1.5 else x * (1.5 / norm)
        (y * weights[index]).sum().backward()
        torch.testing.assert_close(leaf.grad[index], x.grad, rtol=0, atol=1e-9)
        torch.testing.assert_close(clipped(values, 1.5, order)[index], y.detach(), rtol=0, atol=1e-9)
    assert float(clipped(values, 1.5, order).flatten(1).norm(order, dim=1).max()) <= 1.5 + 1e-12


@pytest.mark.parametrize("order", [1, 2])
def test_large_numbers_are_clipped_though_their_squares_overflow(order):
    found = clipped(torch.tensor([[3e25, -4e25]]), 1.0, order)
    assert found.flatten().tolist() == pytest.approx([0.6, -0.8] if order == 2 else [3 / 7, -4 / 7])


@pytest.mark.parametrize("distribution", [GAUSSIAN, LAPLACE])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_device_that_diverges_is_noticed_through_clipping(distribution, wrong):
    layers = network()[1:]
    server = ServerHalf(layers, LEARNING, DropoutStreams(layers, 0, 1), EXACT, CPU, Timeline())
    activation = torch.randn(4, 32, 4, 4)
    activation[2, 3, 1, 1] = wrong
    privacy = build_cut_privacy(PrivacySpec(activations=ActivationNoiseSpec(1.0, 1.0, distribution)))
    released = privacy.release(PART, torch.zeros(4, 1), activation.requires_grad_())
    sent = EXACT.encode_activation(PART, released.values)
    with pytest.raises(LostError, match="the loss is nan"):
        server.process(PART, sent, torch.arange(4), lambda result: pytest.fail("an answer"))


def test_a_frozen_device_half_releases_with_noise_and_wants_no_gradient():
    spec = PrivacySpec(nopeek=1.0, activations=ActivationNoiseSpec(0.5, 0.3))
    state, plain = (
        train_split(freeze(network(), 2), batches(), 2, 3, mechanisms=build_cut_privacy(own))[0]
        for own in (spec, PrivacySpec())
    )
    first, *_, last = (name for name in plain if name.endswith("weight"))
    assert torch.equal(state[first], plain[first])
    assert not torch.equal(state[last], plain[last])


def test_nothing_is_done_without_mechanisms():
    assert build_cut_privacy(PrivacySpec()).idle
    values = torch.ones(2, 3)
    released = CutPrivacy().release(PART, values, values)
    assert released.values is values
    assert released.gradient(values) is values


def test_the_order_is_nopeek_own_noise():
    """NoPeek sees the activation itself, and what leaves has the noise on what the user's own made of it."""
    privacy = build_cut_privacy(MECHANISMS["all"], SEED, RANK)
    values = torch.full((3, 2), 0.1)
    noise = PrivacyNoise(SEED, False, "activations", RANK).gaussian_of_samples((3, 2), 0, 1, 0)
    expected = values / 2 + (0.15 * noise).float()
    torch.testing.assert_close(privacy.release(PART, values, values).values, expected)


OWN = "tests.support.mechanisms."
WRONG = {
    "Flat": r"that releases torch\.float32 of shape \[3, 4, 4\], not torch\.float32 of shape \[3, 16\]|Flat",
    "Detached": "that releases a function of the activation, with a gradient",
    "InPlace": "failed: RuntimeError: a leaf Variable that requires grad",
    "Centred": "that treats each sample by itself",
    "Shared": "and draws what is random from `noise`",
    "Losses": "whose loss is None or a scalar tensor with a gradient",
    "NoLoss": "with the methods release and loss, not NoLoss",
    "Missing": "must be the dotted name of a function",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_mechanism_of_the_users_does_wrong_is_one_line(name):
    with pytest.raises(UserError, match=WRONG[name]) as caught:
        check_own(Choice(target=OWN + name), torch.rand(4, 3, 8, 8), (3, 4, 4), adds_loss=True)
    assert str(caught.value).startswith(f"privacy.cut._target_={OWN}{name}")
    assert "\n" not in str(caught.value)


def test_a_mechanism_of_the_users_that_is_right_is_taken():
    check_own(HALVED, torch.rand(4, 3), (5,), adds_loss=True)
    with pytest.raises(UserError, match=r"without a loss of its own, with privacy\.dpsgd"):
        check_own(HALVED, torch.rand(4, 3), (5,), adds_loss=False)


def test_what_fails_later_is_one_line_too():
    privacy = build_cut_privacy(PrivacySpec(cut=Choice(target=OWN + "InPlace")))
    with pytest.raises(UserError, match=r"privacy\.cut\._target_=.*InPlace failed: RuntimeError"):
        privacy.release(Part(1, 0, 1, 1, 1.0), torch.ones(1), torch.ones(2, 2, requires_grad=True))
