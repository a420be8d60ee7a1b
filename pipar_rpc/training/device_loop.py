"""Algorithm 1: how a device trains its half of the network."""

from concurrent.futures import Future
from typing import NamedTuple

from torch import Tensor

from pipar_rpc.base.errors import PeerError, first_line
from pipar_rpc.base.gpu import finish
from pipar_rpc.base.microbatch import MicroBatch, Part
from pipar_rpc.base.without_compiler import pass_back
from pipar_rpc.compression.coding import Coded
from pipar_rpc.privacy.cut import Released
from pipar_rpc.timing.timeline import Stage
from pipar_rpc.training.exchange import Result
from pipar_rpc.training.resting_half import RestingHalf
from pipar_rpc.training.round_report import RoundReport


class _InFlight(NamedTuple):
    """A micro-batch between its forward and its backward pass on the device."""

    part: Part
    size: int
    counted: float
    activation: Tensor
    released: Released
    sent: Coded
    result: Future[Result]


class Device(RestingHalf):
    """Trains layers 1..P on the device's own data; everything else that a device does is in `DeviceHalf`."""

    def train(self, epoch: int, start: int, stop: int, deadline_s: float | None = None) -> RoundReport:
        """Trains iterations start..stop-1 of an epoch and reports what they took.

        Args:
            epoch: number of the epoch, from 1.
            start: first iteration, from 0.
            stop: iteration after the last one.
            deadline_s: seconds of silence after which the server counts as lost; None for no change.

        Raises:
            PeerError: the server failed, or the device was stopped.
        """
        if deadline_s is not None:
            self._on_deadline(deadline_s)
        with self._measured_round(start) as report:
            batch = self._load_batch(epoch, start)
            for iteration in range(start, stop):
                images, labels = batch.result()
                in_flight = self._forward(self._split(images, labels, epoch, iteration))
                if iteration + 1 < stop:  # prepared while the server computes
                    batch = self._load_batch(epoch, iteration + 1)
                self._cut.exchange.finish(self._measure)
                loss, correct = self._backward(in_flight)
                counted = sum(micro_batch.counted for micro_batch in in_flight)
                report.add(len(labels), loss, correct, counted, self._criterion.num_classified(labels))
                report.learning_rate = self._optimizer.rate(in_flight[-1].part)
                self._report(iteration, report.losses[-1])
        return report

    def _forward(self, micro_batches: list[MicroBatch]) -> list[_InFlight]:
        """Runs all N forward passes in a row; each activation leaves as soon as it is computed."""
        in_flight = []
        for part, images, labels, counted in micro_batches:
            self._stop.check()
            with self._measure(Stage.DEVICE_FORWARD, part, len(labels)):
                self._cut.dropout.begin(part)
                inputs = images.to(self._device)
                with self._cut.gradients.watched():
                    activation = self._head(inputs)
                finish(self._device)
            with self._measure_coding(Stage.DEVICE_ENCODE, part, len(labels)):
                released = self._cut.privacy.release(part, inputs, activation)
                sent = self._cut.coding.encode_activation(part, released.values)
            result = self._cut.exchange.submit(part, sent, labels)
            in_flight.append(_InFlight(part, len(labels), counted, activation, released, sent, result))
        return in_flight

    def _backward(self, in_flight: list[_InFlight]) -> tuple[float, int]:
        """Runs all N backward passes and one optimiser step; returns summed loss and correct count.

        A device half without trainable parameters runs neither: it only waits for the answers.
        """
        loss, correct = 0.0, 0
        for part, size, counted, activation, released, sent, pending in in_flight:
            result = self._await(pending, part)
            if result.gradient is not None:
                with self._measure_coding(Stage.DEVICE_DECODE, part, size):
                    received = self._cut.coding.decode_gradient(sent, result.gradient, self._device)
                    gradient = released.gradient(received)
                with self._measure(Stage.DEVICE_BACKWARD, part, size):
                    pass_back(activation, gradient)
                    self._cut.gradients.after(part)
                    finish(self._device)
            loss += result.loss * counted
            correct += result.correct
        if self._optimizer.trains:
            with self._timeline.measure(Stage.UPDATE, part.iteration), self._pace.stretch(Stage.UPDATE, 0):
                self._cut.gradients.finish(part)
                self._optimizer.step(part)
                finish(self._device)
        return loss, correct

    def _await(self, pending: Future[Result], part: Part) -> Result:
        try:
            return self._stop.result(pending)
        except RuntimeError as error:
            what = f"gradient of micro-batch {part.index}/{part.count}, iteration {part.iteration}"
            raise PeerError(f"{self._name} waited for the server: {what}: {first_line(error)}") from error
