"""Algorithm 1: what a device does with its half of the network."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipar_rpc.compute import finish
from pipar_rpc.data import Batches, Holding
from pipar_rpc.errors import PeerError, first_line
from pipar_rpc.exchange import Exchange
from pipar_rpc.fedavg import State, num_bytes
from pipar_rpc.instrumented import Instrumented
from pipar_rpc.link import Link
from pipar_rpc.memory import peak_rss_mb
from pipar_rpc.microbatch import MicroBatch, Part, split_batch
from pipar_rpc.models import DropoutStreams
from pipar_rpc.momentum import make_sgd, momentum_of
from pipar_rpc.passage import Passages
from pipar_rpc.port import Result
from pipar_rpc.round_report import RoundReport
from pipar_rpc.speed import MachineSpeed, SpeedSpec, calibrate
from pipar_rpc.stopping import Stop
from pipar_rpc.timeline import NO_ITERATION, Span, Stage, Timeline, sum_by_stage
from pipar_rpc.worker import open_pool


class _InFlight(NamedTuple):
    """A micro-batch between its forward and its backward pass on the device."""

    part: Part
    size: int
    activation: Tensor
    result: Future[Result]


@dataclass
class Cut:
    """Where the network and the mini-batches are cut, and what follows from it on the device.

    Attributes:
        layers: 1..P, on the CPU.
        exchange: the way to the server half.
        num_micro_batches: N.
        dropout: generators of the layers' dropout.
        speed: of the emulated device; if it is calibrated, `Device.calibrate` must be called before training.
    """

    layers: nn.Sequential
    exchange: Exchange
    num_micro_batches: int
    dropout: DropoutStreams
    speed: SpeedSpec


class Device(Instrumented):
    """Layers 1..P and the device's own data.

    Args:
        name: for errors.
        cut: the device half.
        optimizer: arguments of `torch.optim.SGD`.
        batches: the device's mini-batches.
        report: called with (iteration, mean loss) after each iteration.
        uplink: what sending the model costs; the exchange has its own use of the same link.
        smallest: samples that a micro-batch has at least.
        device: where to compute.
        timeline: receives the spans of the computation.
        make_cut: a cut from what `recut` is told to do, and the states of its layers.
        momentum: of the layers' parameters.
        on_patience: told the seconds of silence after which the server is lost.
        passed: where the exchange notes what it sends and receives.
        stop: ends what runs, at the next micro-batch or in any sleep.
        places: where its data is, to be told; see `Holding`.
    """

    def __init__(
        self,
        name: str,
        cut: Cut,
        optimizer: dict[str, Any],
        batches: Batches,
        report: Callable[[int, float], None],
        uplink: Link,
        smallest: int,
        device: torch.device,
        timeline: Timeline,
        make_cut: Callable[[Any, State], Cut] | None = None,
        momentum: State | None = None,
        on_patience: Callable[[float], None] = lambda seconds: None,
        passed: Passages | None = None,
        stop: Stop | None = None,
        places: tuple[str, ...] = (),
    ) -> None:
        super().__init__(timeline, uplink, passed or Passages())
        self._name, self._options = name, optimizer
        self._batches, self._places, self._report = batches, places, report
        self._smallest, self._device = smallest, device
        self._make_cut, self._on_patience = make_cut, on_patience
        self._machine: MachineSpeed | None = None
        self._stop = stop or Stop()
        self._stack = ExitStack()
        self._loader = self._stack.enter_context(open_pool("loader"))
        self._take(cut, momentum or {})

    def _take(self, cut: Cut, momentum: State) -> None:
        self._cut, self._layers = cut, cut.layers.to(self._device).train()
        self._optimizer = make_sgd(self._layers, self._options, momentum)
        self._pace = cut.speed.pace(self._machine, self._stop.sleep)

    def recut(self, job: Any, state: State, momentum: State) -> State:
        """Holds other layers from now on, or cuts mini-batches otherwise; to be called between rounds.

        Args:
            job: what the device is to do now; for `make_cut`.
            state: parameters and buffers of the layers that are new here.
            momentum: of these layers' parameters.

        Returns:
            Momentum of the layers that are no longer here; the emulated uplink has carried it.
        """
        assert self._make_cut is not None
        momentum = momentum_of(self._layers, self._optimizer) | momentum
        self._cut.exchange.close()
        self._take(self._make_cut(job, self.state() | state), momentum)
        here = {name for name, _ in self._layers.named_parameters()}
        given_up = {name: buffer for name, buffer in momentum.items() if name not in here}
        self._pay(given_up)
        return given_up

    def holding(self) -> Holding:
        """All that is told of the device's data."""
        return Holding(tuple(self._batches.class_counts()), self._places)

    def calibrate(self, known: dict[str, MachineSpeed]) -> tuple[str, MachineSpeed]:
        """Emulates the device's speed, after measuring this machine's unless `known` has it.

        Args:
            known: by the machines' names.

        Returns:
            This machine's name and speed.
        """
        host, machine = calibrate(self._cut.speed, known, self._device)
        self._machine = machine
        self._pace = self._cut.speed.pace(machine, self._stop.sleep)
        return host, machine

    def train(self, epoch: int, start: int, stop: int, patience_s: float | None = None) -> RoundReport:
        """Trains iterations start..stop-1 of an epoch and tells what they took.

        Args:
            epoch: from 1.
            start: first iteration, from 0.
            stop: the one after the last.
            patience_s: seconds of silence after which the server is lost; None for what held before.

        Raises:
            PeerError: the server failed, or the device was stopped.
        """
        if patience_s is not None:
            self._on_patience(patience_s)
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
        self._keep(spans)
        report.uplink_bytes += self._uplink.num_bytes
        report.emulated_s, report.late_s = self._pace.emulated_s, self._pace.late_s
        report.peak_rss_mb = peak_rss_mb()
        return report

    def _split(self, images: Tensor, labels: Tensor, epoch: int, iteration: int) -> list[MicroBatch]:
        return split_batch(images, labels, self._cut.num_micro_batches, epoch, iteration, self._smallest)

    def _forward(self, micro_batches: list[MicroBatch]) -> list[_InFlight]:
        """All N forward passes in a row; each activation leaves as soon as it is there."""
        in_flight = []
        for part, images, labels in micro_batches:
            self._stop.check()
            with self._measure(Stage.DEVICE_FORWARD, part, len(labels)):
                self._cut.dropout.begin(part)
                activation = self._layers(images.to(self._device))
                outgoing = activation.detach().cpu().requires_grad_(activation.requires_grad)
            result = self._cut.exchange.submit(part, outgoing, labels)
            in_flight.append(_InFlight(part, len(labels), activation, result))
        return in_flight

    def _backward(self, in_flight: list[_InFlight]) -> tuple[float, int]:
        """All N backward passes in order, then one optimiser step; returns summed loss and correct count.

        Where the device half has nothing to train, there is neither: the answers are only waited for.
        """
        loss, correct = 0.0, 0
        for part, size, activation, pending in in_flight:
            result = self._await(pending, part)
            if result.gradient is not None:
                with self._measure(Stage.DEVICE_BACKWARD, part, size):
                    activation.backward(result.gradient.to(self._device))
                    finish(self._device)
            loss += result.loss * size
            correct += result.correct
        if self._optimizer is not None:
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
        try:
            return self._stop.result(pending)
        except RuntimeError as error:
            what = f"gradient of micro-batch {part.index}/{part.count}, iteration {part.iteration}"
            raise PeerError(f"{self._name} waited for the server: {what}: {first_line(error)}") from error

    def state(self) -> State:
        """A copy of parameters and buffers, on the CPU."""
        return {key: tensor.to("cpu", copy=True) for key, tensor in self._layers.state_dict().items()}

    def momentum(self) -> State:
        """Of the parameters that are here, by name; a copy on the CPU."""
        return momentum_of(self._layers, self._optimizer)

    def upload(self) -> State:
        """The device half for aggregation; returns when the emulated uplink has carried it."""
        state = self.state()
        self._pay(state)
        return state

    def _pay(self, state: State) -> None:
        """Waits until the emulated uplink has carried `state`."""
        slot = self._uplink.reserve(num_bytes(state))
        self._timeline.add(Span(Stage.UPLOAD, NO_ITERATION, 0, slot.start, slot.end))
        self._uplink.wait(slot)

    def load(self, state: State) -> None:
        """Replaces parameters and buffers; the optimiser's momentum stays."""
        self._layers.load_state_dict(state)

    def close(self) -> None:
        """Releases the threads."""
        self._stack.close()
        self._cut.exchange.close()
