"""Server halves on a GPU, beside one plain loop that trains the same layers on the same activations."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipar_rpc.base.gpu import settled
from pipar_rpc.base.microbatch import MicroBatch, split_batch
from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.states import State
from pipar_rpc.base.threads import open_pool
from pipar_rpc.compression.coding import NO_CODECS, Coding
from pipar_rpc.learning.optimizer import OptimizerSpec
from pipar_rpc.learning.spec import LearningSpec
from pipar_rpc.models import DropoutStreams, ModelSpec, Norm, build_meta, build_model, output_shape
from pipar_rpc.models.cut import server_layers
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.server_half import ServerHalf

SPLIT_POINT, IMAGE_SIZE, NUM_CLASSES = 1, 32, 10
LR, MOMENTUM = 0.01, 0.9
WARM_UP, RUNS = 3, 3


class Compared(NamedTuple):
    """What training K halves took.

    Attributes:
        plain_s: time of an iteration of all of them in the plain loop.
        halves_s: the same of the server halves.
        allocated: most bytes that were allocated on the GPU for the server halves.
        reserved: most bytes that torch had reserved there for them.
        plain: parameters and buffers of each half at the end, of the plain loop.
        halves: the same of the server halves.
    """

    plain_s: float
    halves_s: float
    allocated: int
    reserved: int
    plain: list[State]
    halves: list[State]


def compare(
    network: str, count: int, batch_size: int, num_micro_batches: int, iterations: int, device: torch.device
) -> Compared:
    """Trains K server halves, and copies of them in a plain loop."""
    spec = ModelSpec(network, Norm.batch, 3, IMAGE_SIZE, NUM_CLASSES)
    layers = []
    for number in range(count):
        torch.manual_seed(number)
        layers.append(server_layers(build_model(spec), SPLIT_POINT))
    copies, batch = copy.deepcopy(layers), make_batch(spec, batch_size, num_micro_batches)
    with ExitStack() as stack:
        reset_memory(device)
        halves = Halves(layers, batch, device, stack)
        halves.train(WARM_UP)
        memory = most_memory(device)
        plain = PlainLoop(copies, batch, device)
        plain.train(WARM_UP)
        seconds: list[list[float]] = [[], []]
        for _ in range(RUNS):
            for which, train in enumerate((plain.train, halves.train)):
                seconds[which].append(timed(train, iterations, device))
        times = [statistics.median(own) for own in seconds]
        return Compared(times[0], times[1], *memory, plain.states(), halves.states())


def make_batch(spec: ModelSpec, batch_size: int, num_micro_batches: int) -> list[MicroBatch]:
    """The micro-batches of activations that every half trains on again and again."""
    rng = generator(0, "launch.gpu")
    shape = output_shape(build_meta(spec)[:SPLIT_POINT], spec)
    activations = torch.randn(batch_size, *shape, generator=rng)
    labels = torch.randint(NUM_CLASSES, (batch_size,), generator=rng)
    return split_batch(activations, labels, num_micro_batches, epoch=1, iteration=0)


def timed(train: Callable[[int], None], iterations: int, device: torch.device) -> float:
    finish(device)
    began = time.perf_counter()
    train(iterations)
    finish(device)
    return (time.perf_counter() - began) / iterations


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_memory(device: torch.device) -> None:
    """What was trained before is not counted."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def most_memory(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


class PlainLoop:
    """Trains the halves one after the other, and waits for each gradient, loss and count."""

    def __init__(
        self, layers: Sequence[nn.Sequential], batch: list[MicroBatch], device: torch.device
    ) -> None:
        self._layers, self._batch, self._device = [own.to(device).train() for own in layers], batch, device
        self._dropout = [DropoutStreams(own, 0, number) for number, own in enumerate(layers, start=1)]
        self._optimizers = [torch.optim.SGD(own.parameters(), LR, MOMENTUM) for own in self._layers]

    def train(self, iterations: int) -> None:
        for _ in range(iterations):
            for layers, dropout, optimizer in zip(self._layers, self._dropout, self._optimizers, strict=True):
                for micro_batch in self._batch:
                    dropout.begin(micro_batch.part)
                    self._micro_batch(layers, micro_batch)
                optimizer.step()
                optimizer.zero_grad()

    def _micro_batch(self, layers: nn.Sequential, micro_batch: MicroBatch) -> tuple[Tensor, float, int]:
        part, activation, labels, _ = micro_batch
        leaf = activation.to(self._device).detach().requires_grad_()
        labels = labels.to(self._device)
        outputs = layers(leaf.clone())
        loss = F.cross_entropy(outputs, labels)
        (loss * part.weight).backward()
        assert leaf.grad is not None
        return leaf.grad.cpu(), float(loss.detach()), int((outputs.argmax(1) == labels).sum())

    def states(self) -> list[State]:
        return [{name: own.cpu() for name, own in layers.state_dict().items()} for layers in self._layers]


class Halves:
    """Trains server halves at the same time: a thread for each, and one that waits for what comes back."""

    def __init__(
        self, layers: Sequence[nn.Sequential], batch: list[MicroBatch], device: torch.device, stack: ExitStack
    ) -> None:
        learning = LearningSpec(OptimizerSpec(lr=LR, momentum=MOMENTUM))
        coding = Coding(NO_CODECS)
        self._halves = [
            ServerHalf(own, learning, DropoutStreams(own, 0, number), coding, device, Timeline())
            for number, own in enumerate(layers, start=1)
        ]
        self._batch = [
            (part, coding.encode_activation(part, activation.clone().requires_grad_()), labels)
            for part, activation, labels, _ in batch
        ]
        self._threads = [stack.enter_context(open_pool(f"compute-{number}")) for number in range(len(layers))]
        self._waiters = [stack.enter_context(open_pool(f"wait-{number}")) for number in range(len(layers))]

    def train(self, iterations: int) -> None:
        running = [
            thread.submit(self._train, number, iterations) for number, thread in enumerate(self._threads)
        ]
        for own in running:
            own.result()

    def _train(self, number: int, iterations: int) -> None:
        half, waiter, coming = self._halves[number], self._waiters[number], []
        for _ in range(iterations):
            for part, sent, labels in self._batch:
                half.process(part, sent, labels, lambda result: coming.append(waiter.submit(settled, result)))
        for result in coming:
            result.result()

    def states(self) -> list[State]:
        return [half.state() for half in self._halves]
