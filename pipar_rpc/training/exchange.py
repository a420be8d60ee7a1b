"""What the two halves need of each other: how the device reaches the server half, and what comes back.

Algorithms 1 and 2 meet here; `pipar_rpc.transport` implements the exchange between processes.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from torch import Tensor

from pipar_rpc.base.microbatch import Part
from pipar_rpc.compression.coding import Coded


class Result(NamedTuple):
    """What a micro-batch's pass through the server half gives.

    Attributes:
        gradient: gradient of the weighted loss with respect to the activation, as its codec encodes it: uint8
            of shape [activation.gradient_bytes], on the CPU. None if none is wanted.
        loss: mean loss over what counts in the micro-batch, unweighted.
        correct: number of labels whose class has the largest output.
    """

    gradient: Tensor | None
    loss: float
    correct: int


Process = Callable[[Part, Coded, Tensor, Callable[[Result], None]], None]
"""A server half: `process(part, activation, labels, reply)` replies as soon as the gradient is computed."""


class Exchange(Protocol):
    """What the device loop needs of the other half."""

    def submit(self, part: Part, activation: Coded, labels: Tensor) -> Future[Result]:
        """Sends a micro-batch on its way, in the order of the calls; returns at once.

        Args:
            part: place within the mini-batch.
            activation: the activation as its codec encodes it; not changed afterwards.
            labels: labels as the data set gives them, shape [b, ...].
        """

    def close(self) -> None:
        """Releases threads."""


class LocalExchange:
    """A server half in the same process: for split point Q, where only the loss is left, and for tests."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def submit(self, part: Part, activation: Coded, labels: Tensor) -> Future[Result]:
        """Runs the server half at once, in the calling thread."""
        future: Future[Result] = Future()
        self._process(part, activation, labels, future.set_result)
        return future

    def close(self) -> None:
        """Does nothing, since nothing is held."""
