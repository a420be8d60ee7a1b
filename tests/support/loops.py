"""Split training in one process, and the plain training that it must equal."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pipar_rpc.base.gpu import Stream
from pipar_rpc.base.microbatch import split_batch
from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.states import State
from pipar_rpc.compression.coding import Coding
from pipar_rpc.data import Batches, Images, Transform
from pipar_rpc.learning import Criterion, LearningSpec, OptimizerSpec
from pipar_rpc.models import DropoutStreams, ModelSpec, Norm, device_layers, server_layers
from pipar_rpc.privacy.cut import CutPrivacy
from pipar_rpc.privacy.dpsgd import gradients_of, half_norm
from pipar_rpc.privacy.gradients import PLAIN, CountedTogether, Gradients
from pipar_rpc.privacy.spec import NO_PRIVACY, PrivacySpec
from pipar_rpc.testbed.device_speed import SpeedSpec
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.cut import Cut, LocalData
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.exchange import Exchange, LocalExchange, WaitingExchange
from pipar_rpc.training.middle_half import MiddleHalf
from pipar_rpc.training.round_report import RoundReport
from pipar_rpc.training.server_half import ServerHalf
from pipar_rpc.training.tail import Tail, TailExchange
from tests.support.coding import EXACT

OPTIMIZER: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
LEARNING = LearningSpec(OptimizerSpec(**OPTIMIZER))
CPU = torch.device("cpu")
Wrap = Callable[[Exchange], Exchange]
NATIVE = SpeedSpec(model=ModelSpec("vgg5", Norm.none, 3, 32, 10), num_units=1, batch_size=1)


def make_batches(count: int, image_size: int, num_classes: int, batch_size: int) -> Batches:
    rng = generator(0, "test")
    images = torch.randint(0, 256, (count, 3, image_size, image_size), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, num_classes, (count,), generator=rng)
    transform = Transform((0.5,) * 3, (0.25,) * 3)
    return Batches(Images(images, labels), batch_size, transform, seed=0, device=1)


def train_split(
    network: nn.Sequential,
    batches: Batches,
    split_point: int,
    num_micro_batches: int,
    smallest: int = 1,
    learning: LearningSpec | None = None,
    coding: Coding = EXACT,
    epochs: int = 1,
    tail_units: int = 0,
    wrap: Wrap = lambda exchange: exchange,
    privacy: PrivacySpec = NO_PRIVACY,
    mechanisms: CutPrivacy | None = None,
    streams: tuple[Stream, Stream] | None = None,
    where: torch.device = CPU,
) -> tuple[State, RoundReport, list[float]]:
    """Algorithms 1 and 2 on the two halves; the state, the last epoch's report and each batch's loss.

    With `tail_units` the labels stay on the device; `wrap` is put around what crosses. With `streams`, the
    device's and the server half's, as on a GPU.
    """
    of_device, of_server = streams or (None, None)
    learning = learning or LEARNING
    held = device_layers(network, split_point, tail_units)
    between = server_layers(network, split_point, tail_units)
    dropout, kind = DropoutStreams(between, 0, 1), MiddleHalf if tail_units else ServerHalf
    own, other, of_tail = half_gradients(network, split_point, batches.batch_size, privacy, tail_units)
    server = kind(between, learning, dropout, coding, where, Timeline(), gradients=other, stream=of_server)
    exchange, losses = wrap(LocalExchange(server.process)), []
    if tail_units:
        last = held[split_point:]
        criterion, masks = Criterion(learning.loss, where), DropoutStreams(last, 0, 1)
        tail = Tail(last, criterion, masks, coding.before_tail(), where, of_tail, of_device)
        exchange = TailExchange("device1", exchange, tail)
    if of_device:
        exchange = WaitingExchange(exchange, of_device)
    device = Device(
        name="device1",
        cut=Cut(
            layers=held,
            exchange=exchange,
            coding=coding,
            num_micro_batches=num_micro_batches,
            dropout=DropoutStreams(held[:split_point], 0, 1),
            speed=NATIVE,
            smallest=smallest,
            split_point=split_point,
            gradients=CountedTogether(own, of_tail) if tail_units else own,
            privacy=mechanisms or CutPrivacy(),
        ),
        learning=learning,
        data=LocalData(batches),
        report=lambda iteration, loss: losses.append(loss),
        device=where,
        stream=of_device,
    )
    for epoch in range(1, epochs + 1):
        report = device.train(epoch, start=0, stop=len(batches))
    device.close()
    return device.state() | server.state(), report, losses


def half_gradients(
    network: nn.Sequential, split_point: int, batch_size: int, privacy: PrivacySpec, tail_units: int = 0
) -> list[Gradients]:
    """What becomes of the gradients of the device half, of the server half and of the last units."""
    trained = [sum(own.numel() for own in unit.parameters() if own.requires_grad) for unit in network]
    found: list[Gradients] = []
    last = len(network) - tail_units
    for half in (slice(0, split_point), slice(split_point, last), slice(last, None)):
        if privacy.dpsgd is None or not sum(trained[half]):
            found.append(PLAIN)
            continue
        clip_norm = half_norm(privacy.dpsgd.max_grad_norm, trained, half)
        found.append(gradients_of(privacy, network[half], clip_norm, batch_size, seed=0, device=1))
    return found


def train_plain(
    network: nn.Sequential,
    batches: Batches,
    num_micro_batches: int = 1,
    smallest: int = 1,
    optimizer: dict[str, Any] | None = None,
) -> tuple[State, float, list[float]]:
    """The reference: one network, one loop, gradients of the micro-batches added up."""
    sgd = torch.optim.SGD(network.parameters(), **(optimizer or OPTIMIZER))
    dropout, losses = DropoutStreams(network, 0, 1), []
    for iteration in range(len(batches)):
        images, labels = batches.get(1, iteration)
        sgd.zero_grad()
        loss = torch.zeros(())
        for part, x, y, _ in split_batch(images, labels, num_micro_batches, 1, iteration, smallest):
            dropout.begin(part)
            part_loss = F.cross_entropy(network.train()(x), y) * part.weight
            part_loss.backward()
            loss += part_loss.detach()
        sgd.step()
        losses.append((float(loss), len(labels)))
    mean = sum(loss * size for loss, size in losses) / sum(size for _, size in losses)
    return network.state_dict(), mean, [loss for loss, _ in losses]


def assert_close(state: State, reference: State, tolerance: float) -> None:
    """The largest difference of any entry is at most `tolerance`."""
    assert state.keys() == reference.keys()
    for key in state:
        assert state[key].dtype == reference[key].dtype, key
        difference = (state[key] - reference[key]).abs().max()
        assert difference <= tolerance, f"{key} differs by {difference}"  # also if it is nan
