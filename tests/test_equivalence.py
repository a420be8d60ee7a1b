"""Split and pipelined training is plain training: every cut, every number of micro-batches, to rounding."""

import copy

import pytest
import torch
from torch.nn import functional as F

from pipar_rpc.data import Batches, Images, Transform
from pipar_rpc.device import Device
from pipar_rpc.exchange import LocalExchange
from pipar_rpc.link import Link
from pipar_rpc.microbatch import split_batch
from pipar_rpc.models import ModelSpec, Norm, build_model
from pipar_rpc.seeds import generator
from pipar_rpc.server import ServerHalf
from pipar_rpc.timeline import Stage, Timeline

BATCH = 10
OPTIMIZER = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(norm: Norm) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", norm, channels=3, image_size=8, num_classes=4))


def make_batches() -> Batches:
    """24 samples: two batches of 10 and one of 4 in each epoch."""
    rng = generator(0, "test")
    images = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 4, (24,), generator=rng)
    return Batches(Images(images, labels), BATCH, Transform((0.5,) * 3, (0.25,) * 3), seed=0, device=1)


def train_split(network, split_point, num_micro_batches):
    """Algorithms 1 and 2 on the two halves; returns the whole state, the mean loss and the device's spans."""
    timeline = Timeline()
    server = ServerHalf(network[split_point:], OPTIMIZER, CPU, Timeline())
    losses = []
    device = Device(
        name="device1",
        layers=network[:split_point],
        optimizer=OPTIMIZER,
        batches=make_batches(),
        exchange=LocalExchange(server.process),
        report=lambda iteration, loss: losses.append(loss),
        uplink=Link(),
        num_micro_batches=num_micro_batches,
        device=CPU,
        timeline=timeline,
        timeout_s=10,
    )
    report = device.train(epoch=1, start=0, stop=3)
    device.close()
    assert report.samples == 24
    assert report.iterations == 3
    sizes = [min(num_micro_batches, size) for size in (10, 10, 4)]
    assert report.stages[Stage.DEVICE_FORWARD].count == sum(sizes)
    return device.state() | server.state(), report.loss / report.samples, losses


def train_plain(network, num_micro_batches=1):
    """The reference: one network, one loop, gradients of the micro-batches added up."""
    optimizer = torch.optim.SGD(network.parameters(), **OPTIMIZER)
    batches, losses = make_batches(), []
    for iteration in range(len(batches)):
        images, labels = batches.get(1, iteration)
        optimizer.zero_grad()
        loss = torch.zeros(())
        for part, x, y in split_batch(images, labels, num_micro_batches, iteration):
            part_loss = F.cross_entropy(network.train()(x), y) * part.weight
            part_loss.backward()
            loss += part_loss.detach()
        optimizer.step()
        losses.append((loss, len(labels)))
    mean = sum(float(loss) * size for loss, size in losses) / sum(size for _, size in losses)
    return network.state_dict(), mean, [float(loss) for loss, _ in losses]


def assert_close(state, reference, tolerance):
    assert state.keys() == reference.keys()
    for key in state:
        torch.testing.assert_close(state[key], reference[key], rtol=0, atol=tolerance, msg=key)


@pytest.mark.parametrize("num_micro_batches", [1, 3, 7, BATCH])
@pytest.mark.parametrize("split_point", range(1, 6))
@pytest.mark.parametrize("norm", [Norm.none, Norm.group])
def test_split_with_micro_batches_equals_unsplit(norm, split_point, num_micro_batches):
    network = make(norm)
    plain, plain_loss, plain_losses = train_plain(copy.deepcopy(network))
    state, loss, losses = train_split(network, split_point, num_micro_batches)
    assert_close(state, plain, tolerance=1e-9)
    assert loss == pytest.approx(plain_loss, abs=1e-9)
    assert losses == pytest.approx(plain_losses, abs=1e-9)


@pytest.mark.parametrize("num_micro_batches", [1, 3, 7, BATCH])
@pytest.mark.parametrize("split_point", range(1, 6))
def test_batch_norm_equals_an_unsplit_loop_over_the_same_micro_batches(split_point, num_micro_batches):
    network = make(Norm.batch)
    plain, plain_loss, _ = train_plain(copy.deepcopy(network), num_micro_batches)
    state, loss, _ = train_split(network, split_point, num_micro_batches)
    assert_close(state, plain, tolerance=1e-9)
    assert loss == pytest.approx(plain_loss, abs=1e-9)


def test_batch_norm_depends_on_micro_batches_which_is_why_there_is_a_notice():
    network = make(Norm.batch)
    one, _, _ = train_plain(copy.deepcopy(network), 1)
    many, _, _ = train_plain(network, 5)
    assert not torch.allclose(one["conv1.1.running_mean"], many["conv1.1.running_mean"], atol=1e-3)
