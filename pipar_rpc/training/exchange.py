"""What the two halves need of each other: how the device reaches the server half, and what comes back.

Algorithms 1 and 2 meet here; `pipar_rpc.transport` implements the exchange between processes, and
`pipar_rpc.training.tail` wraps it where the labels stay on the device.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from torch import Tensor

from pipar_rpc.base.microbatch import Part
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


Process = Callable[[Part, Coded, Tensor | None, Callable[[Result], None]], Future[None] | None]
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
        self._process(part, activation, labels, future.set_result)
        return future

    def finish(self, measure: Measure) -> None:
        """Does nothing: the answers are there."""

    def close(self) -> None:
        """Does nothing, since nothing is held."""
