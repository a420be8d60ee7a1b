"""Devices on threads with one server half that computes their micro-batches together; and a plain loop."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.base.gpu import Later, settled
from pipar_rpc.base.microbatch import MicroBatch, Part, split_batch
from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.states import State
from pipar_rpc.base.threads import open_pool
from pipar_rpc.compression.coding import Coded, Coding
from pipar_rpc.data import Batches, Images, Transform
from pipar_rpc.learning import Criterion, LearningSpec
from pipar_rpc.models import DropoutStreams, device_layers, server_layers
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.cut import Cut, LocalData
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.exchange import Measure, Process, Result
from pipar_rpc.training.merged_half import MergedHalf, Merging
from pipar_rpc.transport.server_order import Lane, open_order
from tests.support.coding import EXACT
from tests.support.loops import CPU, LEARNING, NATIVE, OPTIMIZER
from tests.support.references import EPOCHS, NO_CODECS, Reference, all_batches, averaged

CLASSES = 4


@dataclass
class Job:
    """What devices train; `rests` are those, from 0, that sit each epoch out."""

    sizes: Sequence[tuple[int, int]]  # samples and batch size of each device
    counts: Sequence[int]  # N of each device
    split_point: int = 2
    learning: LearningSpec = LEARNING
    codings: Sequence[Coding] | None = None
    rests: Sequence[set[int]] = field(default_factory=lambda: [set(), set()])

    def batches(self) -> list[Batches]:
        transform = Transform((0.5,) * 3, (0.25,) * 3)
        found = []
        for device, (count, size) in enumerate(self.sizes, start=1):
            rng = generator(0, "test", device)
            images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=rng)
            labels = torch.randint(0, CLASSES, (count,), generator=rng)
            found.append(Batches(Images(images, labels), size, transform, seed=0, device=device))
        return found


class LaneExchange:
    """An exchange with a server half in this process, by way of a lane of its order."""

    def __init__(self, process: Process, lane: Lane) -> None:
        self._process, self._lane, self._numbers = process, lane, itertools.count()

    def submit(self, part: Part, activation: Coded, labels: Tensor | None) -> Future[Result]:
        result: Future[Result] = Future()

        def end(done: Future[None]) -> None:
            if (error := done.exception()) and not result.done():
                result.set_exception(error)

        def reply(found: Result | Later[Result]) -> None:
            result.set_result(settled(found))

        def call() -> None:
            if done := self._process(part, activation, labels, reply):
                done.add_done_callback(end)

        self._lane.submit(next(self._numbers), call, part.is_last)
        return result

    def finish(self, measure: Measure) -> None:
        pass

    def close(self) -> None:
        pass


def server_halves(layers: nn.Sequential, job: Job, merging: Merging) -> list[MergedHalf]:
    codings = job.codings or [EXACT] * len(job.sizes)
    streams = [DropoutStreams(layers, 0, number) for number in range(1, len(job.sizes) + 1)]
    first = MergedHalf(merging, layers, job.learning, streams[0], codings[0], CPU, Timeline())
    others = [first.for_device(*own, Timeline()) for own in zip(streams[1:], codings[1:], strict=True)]
    return [first, *others]


def train_merged(network: nn.Sequential, job: Job) -> list[State]:
    """Each device's network after all epochs; nothing is averaged."""
    merging, batches = Merging(), job.batches()
    halves = server_halves(copy.deepcopy(server_layers(network, job.split_point)), job, merging)
    codings = job.codings or [EXACT] * len(batches)
    with open_order("together", len(batches), merging.compute) as order:
        order.begin([len(own) for own in batches], 0)
        devices = []
        for index, (half, own) in enumerate(zip(halves, batches, strict=True)):
            layers = copy.deepcopy(device_layers(network, job.split_point))
            cut = Cut(
                layers=layers,
                exchange=LaneExchange(half.process, order.lane(index)),
                coding=codings[index],
                num_micro_batches=job.counts[index],
                dropout=DropoutStreams(layers, 0, index + 1),
                speed=NATIVE,
                split_point=job.split_point,
            )
            ignore: Callable[[int, float], None] = lambda iteration, loss: None  # noqa: E731
            devices.append(Device(f"device{index + 1}", cut, job.learning, LocalData(own), ignore, CPU))
        with open_pool("devices", len(devices)) as pool:
            for epoch, rests in enumerate(job.rests, start=1):
                for index in range(len(devices)):
                    order.lane(index).begin_round(0, index in rests)
                training = [
                    pool.submit(device.train, epoch, 0, len(own))
                    for index, (device, own) in enumerate(zip(devices, batches, strict=True))
                    if index not in rests
                ]
                for done in training:
                    done.result(60)
                order.lane(0).settle(10)
        states = [device.state() | half.state() for device, half in zip(devices, halves, strict=True)]
        for device in devices:
            device.close()
    return states


@dataclass
class Plain:
    """A server half and device halves in one process, each with its dropout."""

    server: nn.Module
    heads: list[nn.Module]
    streams: list[tuple[DropoutStreams, DropoutStreams]]

    def losses(
        self, parts: Mapping[int, list[MicroBatch]], args: dict[str, Any], mixes: bool
    ) -> dict[int, Tensor]:
        """The mean loss of each device's mini-batch."""
        losses = {k: torch.zeros(()) for k in parts}
        for n in range(max(map(len, parts.values()))):
            there = {k: own[n] for k, own in parts.items() if n < len(own)}
            for k, rows in self._outputs(there, mixes).items():
                if weight := there[k].part.weight:
                    losses[k] = losses[k] + F.cross_entropy(rows, there[k].labels, **args) * weight
        return losses

    def _outputs(self, there: Mapping[int, MicroBatch], mixes: bool) -> dict[int, Tensor]:
        outputs = {}
        for k, own in there.items():
            for streams in self.streams[k]:
                streams.begin(own.part)
            activation = self.heads[k](own.images)
            outputs[k] = activation if mixes else self.server(activation)
        if not mixes:
            return outputs
        sizes = [len(rows) for rows in outputs.values()]
        return dict(zip(outputs, self.server(torch.cat([*outputs.values()])).split(sizes), strict=True))


def train_plain(network: nn.Sequential, job: Job, mixes: bool = False) -> list[State]:
    """The reference: the server half sees each device by itself, or all of them at once if it `mixes`.

    It is updated by the gradient of the mean over all samples, each device half by that of its own mean,
    which with batch statistics is the gradient of the whole mean over the device's share.
    """
    server, batches = copy.deepcopy(server_layers(network, job.split_point)).train(), job.batches()
    heads = [copy.deepcopy(device_layers(network, job.split_point)).train() for _ in batches]
    named = list(enumerate(heads, start=1))
    streams = [(DropoutStreams(head, 0, number), DropoutStreams(server, 0, number)) for number, head in named]
    plain = Plain(server, list[nn.Module](heads), streams)
    optimizers = [torch.optim.SGD(half.parameters(), **OPTIMIZER) for half in (server, *heads)]
    count_of, args = Criterion(job.learning.loss).count, dict(job.learning.loss.args)
    if "weight" in args:
        args["weight"] = torch.tensor(args["weight"])
    for epoch, rests in enumerate(job.rests, start=1):
        for iteration in range(max(map(len, batches))):
            parts = {
                k: split_batch(*own.get(epoch, iteration), job.counts[k], epoch, iteration, count_of=count_of)
                for k, own in enumerate(batches)
                if k not in rests and iteration < len(own)
            }
            if parts:
                losses = plain.losses(parts, args, mixes)
                counted = {k: sum(one.counted for one in own) for k, own in parts.items()}
                _update(plain, optimizers, losses, counted, mixes)
    return [head.state_dict() | server.state_dict() for head in heads]


def _update(
    plain: Plain,
    optimizers: Sequence[torch.optim.Optimizer],
    losses: Mapping[int, Tensor],
    counted: Mapping[int, float],
    mixes: bool,
) -> None:
    whole = sum(counted.values())
    mean = torch.stack([losses[k] * (own / whole) for k, own in counted.items()]).sum()
    own_losses = {k: mean * (whole / own) if mixes else losses[k] for k, own in counted.items()}
    halves = {1 + k: (plain.heads[k], own) for k, own in own_losses.items()} | {0: (plain.server, mean)}
    for half, loss in halves.values():
        gradients = torch.autograd.grad(loss, list(half.parameters()), retain_graph=True)
        for weight, gradient in zip(half.parameters(), gradients, strict=True):
            weight.grad = gradient
    for index in halves:
        optimizers[index].step()


def split_federated_merged(make: Callable[[], nn.Sequential], split_point: int) -> State:
    """The job of `references`: device halves that are averaged after every epoch, and one server half.

    Each iteration updates the server half by the gradient of the mean over the samples of all devices, and
    each device half by that of its own mean.
    """
    network, batches = make(), all_batches()
    server = server_layers(network, split_point)
    heads = [copy.deepcopy(device_layers(network, split_point)) for _ in batches]
    devices = [Reference(nn.Sequential(*head, *server), split_point) for head in heads]
    average = devices[0].state()
    for epoch in range(1, EPOCHS + 1):
        for iteration in range(max(map(len, batches))):
            there = [(k, own.get(epoch, iteration)) for k, own in enumerate(batches) if iteration < len(own)]
            losses = {k: F.cross_entropy(devices[k].network(images), labels) for k, (images, labels) in there}
            counted = {k: float(len(labels)) for k, (_, labels) in there}
            optimizers = [devices[0].optimizers[1], *(device.optimizers[0] for device in devices)]
            _update(Plain(server, list[nn.Module](heads), []), optimizers, losses, counted, mixes=False)
        average = averaged(devices, average, weighted_average, NO_CODECS)
    return dict(zip(network.state_dict(), average.values(), strict=True))  # under the units' own names
