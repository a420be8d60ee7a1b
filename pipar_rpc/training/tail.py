"""The U-shape: the last units, the loss and the labels stay on the device (`pipeline.labels=device`).

Vepakomma, Gupta, Swedish and Raskar, "Split learning for health: Distributed deep learning without sharing
raw patient data", 2018, section 3.2. The server half holds the units between, and a micro-batch crosses
twice each way:

    device: units 1..P          activation   -->
                                             server: units P+1..Q-T
                           <--  output
    device: units Q-T+1..Q,
            loss, backward      gradient of the output  -->
                                             server: backward
                           <--  gradient of the activation
    device: backward

All N first crossings are submitted before the first second one, and both lines and the server are queues. So
when a gradient arrives, all outputs have: the device runs all forward passes, then the last units of all
micro-batches in order, each as soon as its output is there, then all backward passes.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipar_rpc.base.errors import PeerError, first_line
from pipar_rpc.base.gpu import Stream, main_stream, settled
from pipar_rpc.base.microbatch import Part
from pipar_rpc.compression.coding import Coded, Coding, Crossing
from pipar_rpc.learning.loss import Criterion
from pipar_rpc.models import DropoutStreams
from pipar_rpc.privacy.gradients import PLAIN, Gradients
from pipar_rpc.timing.timeline import Stage
from pipar_rpc.training.exchange import Exchange, Measure, Result
from pipar_rpc.training.finite_check import FiniteCheck


class Tail:
    """Units Q-T+1..Q and the loss; their optimiser is the device half's, which holds them too.

    Args:
        layers: these units, where the device computes.
        criterion: the training loss.
        dropout: random generators of their dropout.
        coding: codecs at the cut before them, equal to the server half's.
        device: torch device that computes.
        gradients: what becomes of their gradients before the optimiser uses them.
        stream: stream on which it computes, the device half's; by default the main one of `device`.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        criterion: Criterion,
        dropout: DropoutStreams,
        coding: Coding,
        device: torch.device,
        gradients: Gradients = PLAIN,
        stream: Stream | None = None,
    ) -> None:
        self._layers, self._criterion, self._dropout = layers, criterion, dropout
        self._coding, self._device, self._gradients = coding, device, gradients
        self._stream = stream or main_stream(device)
        self._check = FiniteCheck(layers)  # made anew before each mini-batch

    def train(self, part: Part, output: Coded, labels: Tensor, measure: Measure) -> tuple[Coded, Result]:
        """Runs forward and backward pass; gradients add up until the device half's optimiser step.

        Args:
            part: place within the mini-batch; parts come in order.
            output: output of the server half, as its codec encodes it.
            labels: labels as the data set gives them, shape [b, ...].
            measure: measurement of what is computed.

        Returns:
            The gradient of the output, as it crosses, without bytes if nothing before is trained; and loss
            and correct count.

        Raises:
            LostError: the loss, a gradient or a running statistic is not finite.
        """
        size = len(labels)
        output = output.moved(self._stream.to_device)
        with self._measure_coding(measure, Stage.OUTPUT_DECODE, part, size):
            leaf = self._coding.decode_leaf(output, self._device)
        with measure(Stage.DEVICE_TAIL, part, size):
            if part.index == 1:
                self._check = FiniteCheck(self._layers)
            self._dropout.begin(part)
            labels = self._stream.to_device(labels)
            with self._gradients.watched():
                outputs = self._layers(leaf.clone())  # the first layer may work in place: no leaf allows it
            loss = self._criterion.of_part(outputs, labels, part.weight)
            (loss * part.weight).backward()
            self._gradients.after(part)
            told = settled(self._stream.read(loss.detach(), self._criterion.correct(outputs, labels)))
        self._check.loss(part, told)
        if part.is_last:
            self._gradients.finish(part)
            self._check.gradients(part)
        with self._measure_coding(measure, Stage.RETURN_ENCODE, part, size):
            gradient = self._encode(part, output, leaf.grad)
        return settled(self._stream.when_done(lambda: gradient)), Result(None, *told)

    def _encode(self, part: Part, output: Coded, gradient: Tensor | None) -> Coded:
        payload = torch.empty(0, dtype=torch.uint8)
        if gradient is not None:
            payload = self._coding.encode_gradient(part, output, gradient, self._stream.to_host)
        return Coded(payload, output.shape, output.dtype, None, Crossing.SECOND)

    def _measure_coding(
        self, measure: Measure, stage: Stage, part: Part, samples: int
    ) -> AbstractContextManager[None]:
        return nullcontext() if self._coding.exact else measure(stage, part, samples)


class _Waiting(NamedTuple):
    """A micro-batch whose output has not arrived yet, or has not been used."""

    part: Part
    activation: Coded
    labels: Tensor
    output: Future[Result]
    result: Future[Result]


class TailExchange:
    """An exchange whose results come by way of the device's last units; labels go no further.

    Args:
        name: the device's name, for errors.
        exchange: exchange with the server half, which holds the units between.
        tail: the last units.
        wait: function that returns the result of a future, or raises as soon as the work is to end.
        count: function called with the bytes that codecs save at the cut before the last units.
    """

    def __init__(
        self,
        name: str,
        exchange: Exchange,
        tail: Tail,
        wait: Callable[[Future[Result]], Result] = Future.result,
        count: Callable[[int], None] = lambda saved_bytes: None,
    ) -> None:
        self._name, self._exchange, self._tail = name, exchange, tail
        self._wait, self._count = wait, count
        self._waiting: list[_Waiting] = []

    def submit(self, part: Part, activation: Coded, labels: Tensor | None) -> Future[Result]:
        """Sends the activation alone; the result comes after `finish`."""
        assert labels is not None
        output = self._exchange.submit(part, activation._replace(crossing=Crossing.FIRST), None)
        result: Future[Result] = Future()
        self._waiting.append(_Waiting(part, activation, labels, output, result))
        return result

    def finish(self, measure: Measure) -> None:
        """Trains the last units on each output as it arrives, in order, and sends its gradient.

        Args:
            measure: measurement of what is computed.

        Raises:
            PeerError: the server failed, or the device was stopped.
            LostError: the loss, a gradient or a running statistic is not finite.
        """
        waiting, self._waiting = self._waiting, []
        for part, activation, labels, pending, result in waiting:
            output = self._output(part, pending)
            self._count(output.saved_bytes)
            gradient, told = self._tail.train(part, output, labels, measure)
            gradient = gradient._replace(gradient_bytes=activation.gradient_bytes)
            _chain(self._exchange.submit(part, gradient, None), told, result)

    def close(self) -> None:
        """Releases the exchange's threads."""
        self._exchange.close()

    def _output(self, part: Part, pending: Future[Result]) -> Coded:
        try:
            output = self._wait(pending).output
        except RuntimeError as error:
            what = f"output of micro-batch {part.index}/{part.count}, iteration {part.iteration}"
            raise PeerError(f"{self._name} waited for the server: {what}: {first_line(error)}") from error
        assert output is not None
        return output


def _chain(answer: Future[Result], told: Result, result: Future[Result]) -> None:
    """Makes `result` what the device's own pass told, with the gradient of the answer once it is there."""

    def pass_on(done: Future[Result]) -> None:
        if error := done.exception():
            result.set_exception(error)
        else:
            result.set_result(told._replace(gradient=done.result().gradient))

    answer.add_done_callback(pass_on)
