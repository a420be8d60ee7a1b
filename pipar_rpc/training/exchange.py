"""What the two halves need of each other: how the device reaches the server half, and what comes back.

Algorithms 1 and 2 meet here; `pipar_rpc.transport` implements the exchange between processes, and
`pipar_rpc.training.tail` wraps it where the labels stay on the device.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import NamedTuple, Protocol

from torch import Tensor

from pipar_rpc.base.gpu import Later, Stream, settled
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.threads import open_pool
from pipar_rpc.compression.coding import Coded
from pipar_rpc.timing.timeline import Stage


class Result(NamedTuple):
    """What a micro-batch's pass through the server half gives.

    Attributes:
        gradient: gradient of the weighted loss with respect to the activation, as its codec encodes it: uint8
            of shape [activation.gradient_bytes], on the CPU. None if none is wanted.
        loss: mean loss over what counts in the micro-batch, unweighted; 0 where the device computes it.
        correct: number of labels whose class has the largest output; 0 where the device computes it.
        output: what the server half has made of the activation, for the device's last units; None where the
            loss is computed on the server, and for the gradient of such an output.
    """

    gradient: Tensor | None
    loss: float = 0.0
    correct: int = 0
    output: Coded | None = None


Reply = Callable[[Result | Later[Result]], None]
"""Takes what goes back; a GPU may still be at it."""

Process = Callable[[Part, Coded, Tensor | None, Reply], Future[None] | None]
"""A server half: `process(part, sent, labels, reply)` replies as soon as it has what goes back.

There are labels only where the server half computes the loss. Where a micro-batch is computed together with
those of other devices, the result is a future that is done when it has been.
"""

Measure = Callable[[Stage, Part, int], AbstractContextManager[None]]
"""`measure(stage, part, samples)` measures a block, which takes as long as on the emulated device."""


class Exchange(Protocol):
    """What the device loop needs of the other half."""

    def submit(self, part: Part, activation: Coded, labels: Tensor | None) -> Future[Result]:
        """Sends a micro-batch on its way, in the order of the calls; returns at once.

        Args:
            part: place within the mini-batch.
            activation: the activation as its codec encodes it; not changed afterwards.
            labels: labels as the data set gives them, shape [b, ...]; None if there are none to be sent.
        """

    def finish(self, measure: Measure) -> None:
        """Does what the device has to do before gradients come, once all of a mini-batch is submitted.

        Args:
            measure: measurement of what is computed.
        """

    def close(self) -> None:
        """Releases threads."""


class LocalExchange:
    """A server half in the same process: for split point Q, where only the loss is left, and for tests."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def submit(self, part: Part, activation: Coded, labels: Tensor | None) -> Future[Result]:
        """Runs the server half at once, in the calling thread."""
        future: Future[Result] = Future()
        self._process(part, activation, labels, lambda result: future.set_result(settled(result)))
        return future

    def finish(self, measure: Measure) -> None:
        """Does nothing: the answers are there."""

    def close(self) -> None:
        """Does nothing, since nothing is held."""


class WaitingExchange:
    """An exchange for a GPU, which may still be at an activation when it is submitted.

    A thread waits for each activation in turn and submits it then, so that it holds the uplink no sooner than
    it is there, while the device's own thread gives the GPU the next forward pass.

    Args:
        exchange: the exchange.
        stream: stream on which the device half computes.
    """

    def __init__(self, exchange: Exchange, stream: Stream) -> None:
        self._exchange, self._stream = exchange, stream
        self._stack = ExitStack()
        self._pool = self._stack.enter_context(open_pool("leaving"))

    def submit(self, part: Part, activation: Coded, labels: Tensor | None) -> Future[Result]:
        """Sends a micro-batch as soon as all is done that the stream was given until now; returns at once."""
        result: Future[Result] = Future()
        there = self._stream.when_done(lambda: activation)
        self._pool.submit(self._pass_on, part, there, labels, result)
        return result

    def finish(self, measure: Measure) -> None:
        """Waits until all activations have been passed on, and finishes the exchange."""
        self._pool.submit(lambda: None).result()
        self._exchange.finish(measure)

    def close(self) -> None:
        """Releases the threads."""
        self._stack.close()
        self._exchange.close()

    def _pass_on(
        self, part: Part, there: Coded | Later[Coded], labels: Tensor | None, result: Future[Result]
    ) -> None:
        try:
            answer = self._exchange.submit(part, settled(there), labels)
        except BaseException as error:  # whatever it is: the device loop waits for the result
            result.set_exception(error)
        else:
            answer.add_done_callback(partial(_follow, result))


def _follow(result: Future[Result], answer: Future[Result]) -> None:
    """Makes `result` what `answer` has become."""
    if error := answer.exception():
        result.set_exception(error)
    else:
        result.set_result(answer.result())
