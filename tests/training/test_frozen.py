"""What is not trained: halves without parameters or with frozen ones get no gradient and cost nothing."""

import copy

import pytest
import torch
from torch import nn

from pipar_rpc.coordination.build import fill
from pipar_rpc.learning.optimizer_state import of_parameters
from pipar_rpc.models import DropoutStreams, build_device_layers
from pipar_rpc.timing.timeline import Stage, Timeline
from pipar_rpc.training.cut import Cut, LocalData
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.exchange import LocalExchange
from pipar_rpc.training.server_half import ServerHalf
from tests.support.coding import EXACT
from tests.support.frozen import CLASSES, TRAINED, make, spec_of
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

CUTS = [(name, point) for name, trained in TRAINED.items() for point in range(1, len(trained) + 1)]


def batches():
    """24 samples: two batches of 10 and one of 4."""
    return make_batches(24, image_size=8, num_classes=CLASSES, batch_size=10)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("num_micro_batches", [1, 3, 10])
@pytest.mark.parametrize(("name", "split_point"), CUTS)
def test_split_equals_plain_training_of_what_is_not_frozen(name, split_point, num_micro_batches):
    network = make(name)
    plain, loss, _ = train_plain(copy.deepcopy(network), batches(), num_micro_batches)
    frozen = {key: own.clone() for key, own in network.named_parameters() if not own.requires_grad}
    state, report, _ = train_split(network, batches(), split_point, num_micro_batches)
    assert_close(state, plain, tolerance=1e-9)
    assert report.loss / report.samples == pytest.approx(loss, abs=1e-9)
    assert all(torch.equal(state[key], own) for key, own in frozen.items())
    done = any(TRAINED[name][:split_point])
    assert (Stage.DEVICE_BACKWARD in report.stages, Stage.UPDATE in report.stages) == (done, done)


@pytest.mark.usefixtures("double_precision")
def test_layers_that_move_make_a_half_trained_or_frozen():
    """P = 1, 2, 1: the device half is frozen, trained, and frozen again; momentum moves with the layers."""
    network, data = make("frozen_first"), batches()
    plain = copy.deepcopy(network)
    sgd = torch.optim.SGD([own for own in plain.parameters() if own.requires_grad], **OPTIMIZER)
    for epoch in (1, 2, 3):
        for iteration in range(len(data)):
            images, labels = data.get(epoch, iteration)
            sgd.zero_grad()
            nn.functional.cross_entropy(plain(images), labels).backward()
            sgd.step()
    server = ServerHalf(network[1:], LEARNING, DropoutStreams(network[1:], 0, 1), EXACT, CPU, Timeline())

    def cut(split_point, state):
        layers = build_device_layers(spec_of("frozen_first"), split_point)
        fill(layers, state)
        return Cut(layers, LocalExchange(server.process), EXACT, 1, DropoutStreams(layers, 0, 1), NATIVE)

    first = cut(1, network[:1].state_dict())
    idle = lambda iteration, loss: None  # noqa: E731
    device = Device("device1", first, LEARNING, LocalData(data), idle, CPU, make_cut=cut)
    stages = [device.train(1, 0, len(data)).stages]
    whole = {key: own.clone() for key, own in (device.state() | server.state()).items()}
    moving = network[1:2].state_dict()
    down = of_parameters(server.optimizer_state(), moving)
    assert down.keys() == {"1.0.weight/momentum_buffer"}  # the bias is frozen
    assert device.recut(2, {key: whole[key] for key in moving}, down) == {}
    server.recut(copy.deepcopy(network[2:]), DropoutStreams(network[2:], 0, 1), EXACT, {})
    stages.append(device.train(2, 0, len(data)).stages)
    whole = {key: own.clone() for key, own in (device.state() | server.state()).items()}
    up = device.recut(1, {}, {})
    assert up.keys() == {"1.0.weight/momentum_buffer"}
    half = make("frozen_first")[1:]
    half.load_state_dict({key: whole[key] for key in half.state_dict()})
    server.recut(half, DropoutStreams(half, 0, 1), EXACT, up)
    stages.append(device.train(3, 0, len(data)).stages)
    assert [Stage.DEVICE_BACKWARD in own for own in stages] == [False, True, False]
    assert_close(device.state() | server.state(), plain.state_dict(), tolerance=1e-9)
    device.close()
