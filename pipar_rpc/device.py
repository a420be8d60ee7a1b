"""Algorithm 1: what a device does with its half of the network."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipar_rpc.compute import finish
from pipar_rpc.data import Batches
from pipar_rpc.errors import PeerError, first_line
from pipar_rpc.exchange import Exchange
from pipar_rpc.fedavg import State, num_bytes
from pipar_rpc.link import Link
from pipar_rpc.memory import peak_rss_mb
from pipar_rpc.microbatch import MicroBatch, Part, split_batch
from pipar_rpc.models import DropoutStreams
from pipar_rpc.port import Result
from pipar_rpc.speed import MachineSpeed, SpeedSpec, calibrate
from pipar_rpc.timeline import NO_ITERATION, Busy, Span, Stage, Timeline, pack, sum_by_stage
from pipar_rpc.worker import open_pool


@dataclass
class RoundReport:
    """What a device tells the server about a round.

    Attributes:
        iterations: number of iterations.
        samples: samples processed.
        losses: mean loss of each iteration.
        loss: sum of the loss over the samples.
        correct: samples classified correctly while training.
        seconds: wall time of the round on the device.
        stages: busy time of the device's compute stages and of its uplink.
        uplink_bytes: activations and labels sent.
        emulated_s: seconds of computing on the emulated device; 0 if its speed is not emulated.
        late_s: seconds by which real computing took longer than that.
        peak_rss_mb: largest resident memory of the process in this job, in 10^6 bytes.
    """

    iterations: int = 0
    samples: int = 0
    losses: list[float] = field(default_factory=list)
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    stages: dict[Stage, Busy] = field(default_factory=dict)
    uplink_bytes: int = 0
    emulated_s: float = 0.0
    late_s: float = 0.0
    peak_rss_mb: float = 0.0


class _InFlight(NamedTuple):
    """A micro-batch between its forward and its backward pass on the device."""

    part: Part
    size: int
    activation: Tensor
    result: Future[Result]


class Device:
    """Layers 1..P and the device's own data.

    Args:
        name: for errors.
        layers: the device half, on the CPU.
        optimizer: arguments of `torch.optim.SGD`.
        batches: the device's mini-batches.
        exchange: the way to the server half.
        report: called with (iteration, mean loss) after each iteration.
        uplink: what sending the model costs; the exchange has its own use of the same link.
        num_micro_batches: N.
        smallest: samples that a micro-batch has at least.
        dropout: generators of the layers' dropout.
        device: where to compute.
        speed: of the emulated device; if it is calibrated, `calibrate` must be called before training.
        timeline: receives the spans of the computation.
        timeout_s: longest wait for a gradient.
    """

    def __init__(
        self,
        name: str,
        layers: nn.Sequential,
        optimizer: dict[str, Any],
        batches: Batches,
        exchange: Exchange,
        report: Callable[[int, float], None],
        uplink: Link,
        num_micro_batches: int,
        smallest: int,
        dropout: DropoutStreams,
        device: torch.device,
        speed: SpeedSpec,
        timeline: Timeline,
        timeout_s: float,
    ) -> None:
        self._name = name
        self._layers = layers.to(device).train()
        self._optimizer = torch.optim.SGD(self._layers.parameters(), **optimizer)
        self._batches, self._exchange, self._report = batches, exchange, report
        self._uplink, self._dropout = uplink, dropout
        self._num_micro_batches, self._smallest = num_micro_batches, smallest
        self._device, self._timeline, self._timeout_s = device, timeline, timeout_s
        self._speed = speed
        self._pace = speed.pace()
        self._recording, self._recorded = False, list[Span]()
        self._stopped = threading.Event()
        self._stack = ExitStack()
        self._loader = self._stack.enter_context(open_pool("loader"))
        self._stack.callback(exchange.close)

    def class_counts(self) -> list[int]:
        """Samples of each class that this device trains on."""
        return self._batches.class_counts()

    def calibrate(self, known: dict[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        """Emulates the device's speed, after measuring this machine's unless `known` has it.

        Args:
            known: by the machines' names.

        Returns:
            This machine's name and speed.
        """
        host, machine = calibrate(self._speed, known, self._device)
        self._pace = self._speed.pace(machine)
        return host, machine

    def clock(self) -> float:
        """This process's `time.monotonic()`, to compare it with others'."""
        return time.monotonic()

    def record(self, wanted: bool) -> None:
        """Whether `spans` will be asked for."""
        self._recorded.clear()
        self._recording = wanted

    def spans(self) -> Tensor:
        """What was recorded since the last call; see `timeline.pack`."""
        packed = pack(self._recorded + self._timeline.drain())
        self._recorded.clear()
        return packed

    def start_clock(self) -> None:
        """Makes now the time 0 of the uplink's trace and traffic."""
        self._uplink.start()

    def drain_traffic(self) -> list[float]:
        """What the uplink carried; see `Link.drain_traffic`."""
        return self._uplink.drain_traffic()

    def train(self, epoch: int, start: int, stop: int) -> RoundReport:
        """Trains iterations start..stop-1 of an epoch and tells what they took.

        Raises:
            PeerError: the server failed, or its answer did not come in time.
        """
        began, report = time.monotonic(), RoundReport(uplink_bytes=-self._uplink.num_bytes)
        self._pace.emulated_s = self._pace.late_s = 0.0
        batch = self._loader.submit(self._batches.get, epoch, start)
        for iteration in range(start, stop):
            images, labels = batch.result()
            in_flight = self._forward(self._split(images, labels, epoch, iteration))
            if iteration + 1 < stop:  # prepared while the server computes
                batch = self._loader.submit(self._batches.get, epoch, iteration + 1)
            loss, correct = self._backward(in_flight)
            self._report(iteration, loss / len(labels))
            report.iterations += 1
            report.samples += len(labels)
            report.losses.append(loss / len(labels))
            report.loss += loss
            report.correct += correct
        report.seconds = time.monotonic() - began
        spans = self._timeline.drain()
        report.stages = sum_by_stage(spans)
        if self._recording:
            self._recorded += spans
        report.uplink_bytes += self._uplink.num_bytes
        report.emulated_s, report.late_s = self._pace.emulated_s, self._pace.late_s
        report.peak_rss_mb = peak_rss_mb()
        return report

    def _split(self, images: Tensor, labels: Tensor, epoch: int, iteration: int) -> list[MicroBatch]:
        return split_batch(images, labels, self._num_micro_batches, epoch, iteration, self._smallest)

    def _forward(self, micro_batches: list[MicroBatch]) -> list[_InFlight]:
        """All N forward passes in a row; each activation leaves as soon as it is there."""
        in_flight = []
        for part, images, labels in micro_batches:
            if self._stopped.is_set():
                raise PeerError("stopped by the server")
            with self._measure(Stage.DEVICE_FORWARD, part, len(labels)):
                self._dropout.begin(part)
                activation = self._layers(images.to(self._device))
                outgoing = activation.detach().cpu()
            result = self._exchange.submit(part, outgoing, labels)
            in_flight.append(_InFlight(part, len(labels), activation, result))
        return in_flight

    def _backward(self, in_flight: list[_InFlight]) -> tuple[float, int]:
        """All N backward passes in order, then one optimiser step; returns summed loss and correct count."""
        loss, correct = 0.0, 0
        for part, size, activation, pending in in_flight:
            result = self._await(pending, part)
            with self._measure(Stage.DEVICE_BACKWARD, part, size):
                activation.backward(result.gradient.to(self._device))
                finish(self._device)
            loss += result.loss * size
            correct += result.correct
        with self._timeline.measure(Stage.UPDATE, part.iteration), self._pace.stretch(Stage.UPDATE, 0):
            self._optimizer.step()
            self._optimizer.zero_grad()
            finish(self._device)
        return loss, correct

    @contextmanager
    def _measure(self, stage: Stage, part: Part, samples: int) -> Iterator[None]:
        """A span of computation, as long as on the emulated device."""
        with self._timeline.measure(stage, part.iteration, part.index), self._pace.stretch(stage, samples):
            yield

    def _await(self, pending: Future[Result], part: Part) -> Result:
        what = f"gradient of micro-batch {part.index}/{part.count}, iteration {part.iteration}"
        try:
            return pending.result(self._timeout_s)
        except TimeoutError:
            raise PeerError(f"{self._name} waited {self._timeout_s:.0f} s for the server: {what}") from None
        except RuntimeError as error:
            raise PeerError(f"{self._name} waited for the server: {what}: {first_line(error)}") from error

    def state(self) -> State:
        """A copy of parameters and buffers, on the CPU."""
        return {key: tensor.to("cpu", copy=True) for key, tensor in self._layers.state_dict().items()}

    def upload(self) -> State:
        """The device half for aggregation; returns when the emulated uplink has carried it."""
        state = self.state()
        slot = self._uplink.reserve(num_bytes(state))
        self._timeline.add(Span(Stage.UPLOAD, NO_ITERATION, 0, slot.start, slot.end))
        self._uplink.wait(slot)
        return state

    def load(self, state: State) -> None:
        """Replaces parameters and buffers; the optimiser's momentum stays."""
        self._layers.load_state_dict(state)

    def stop(self) -> None:
        """Ends a running `train` at its next micro-batch; may come from any thread."""
        self._stopped.set()

    def close(self) -> None:
        """Releases the threads."""
        self._stack.close()
