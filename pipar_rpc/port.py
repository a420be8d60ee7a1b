"""The server's end of a device's exchange: micro-batches arrive, gradients leave.

See exchange.py for the whole picture.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import autograd as dist_autograd
from torch.distributed import rpc

from pipar_rpc.contexts import Contexts
from pipar_rpc.errors import Failure, PeerError, first_line
from pipar_rpc.link import Link, Slot
from pipar_rpc.microbatch import Part
from pipar_rpc.passage import Passages
from pipar_rpc.rotation import Order
from pipar_rpc.stopping import Stop
from pipar_rpc.timeline import Span, Stage, Timeline
from pipar_rpc.worker import InOrder, open_pool, start_pool

log = logging.getLogger(__name__)

MAX_SENDERS = 16  # gradients of one device that may be on their way at a time
LOOK_S = 1.0
REMIND_S = 10.0  # between two lines about a server half that computes for long


class Result(NamedTuple):
    """What a micro-batch's pass through the server half gives.

    Attributes:
        gradient: of the weighted loss with respect to the activation; on the CPU, the activation's shape.
            None if the activation does not require one.
        loss: mean over the micro-batch, unweighted.
        correct: samples whose largest logit is the label's.
    """

    gradient: Tensor | None
    loss: float
    correct: int


Process = Callable[[Part, Tensor, Tensor, Callable[[Result], None]], None]
"""A server half: `process(part, activation, labels, reply)` replies as soon as the gradient is there."""


class Port:
    """Puts one device's micro-batches in order, has them computed and sends the gradients back.

    Args:
        name: of the device, for errors.
        process: the server half.
        downlink: the device's emulated downlink.
        timeline: receives the downlink's spans.
        order: runs the server half's work; by default a thread of this port's own.
        stop: ends the downlink's sleeps.

    Attributes:
        iteration: iterations of the epoch that the device has reported as done.
        loss: mean loss of the last of them.
        slowest_s: longest time of an iteration so far; None before the first one.
        passed: when activations arrived and gradients left.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        downlink: Link,
        timeline: Timeline,
        order: Order | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.name = name
        self.downlink, self.passed = downlink, Passages()
        self.iteration, self.loss = 0, float("nan")
        self.slowest_s: float | None = None
        self._last_heard = self._iteration_began = time.monotonic()
        self._to_compute: set[torch.futures.Future[Any]] = set()
        self._stop, self._computing_since, self._reminded = stop or Stop(), math.inf, 0.0
        self._process, self._timeline = process, timeline
        self._unanswered: set[torch.futures.Future[Any]] = set()
        self._contexts = Contexts()
        self._failure: Failure | None = None
        self._stack = ExitStack()
        self._senders = start_pool(f"send-{name}", MAX_SENDERS)
        self._pacer = self._stack.enter_context(open_pool(f"pace-{name}"))
        self._order = order or InOrder(self._stack.enter_context(open_pool(f"compute-{name}")))

    def reference(self) -> Any:
        """The RRef with which the device addresses this port."""
        return rpc.RRef(self)

    def listen(self) -> None:
        """Begins to expect signs of life: the device has just been asked to train."""
        self._last_heard = self._iteration_began = time.monotonic()

    def heard(self) -> None:
        """Notes a sign of life of the device."""
        self._last_heard = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the device's last sign of life; 0 while it waits for the server to compute."""
        return 0.0 if self._to_compute else time.monotonic() - self._last_heard

    def trained(self, iteration: int, loss: float) -> None:
        """Notes that the device has finished `iteration` (from 0)."""
        self.heard()
        self.slowest_s = max(self.slowest_s or 0.0, self._last_heard - self._iteration_began)
        self._iteration_began = self._last_heard
        self.iteration, self.loss = iteration + 1, loss

    def deliver(
        self, number: int, part: Part, context_id: int, activation: Tensor, labels: Tensor
    ) -> "torch.futures.Future[Any]":
        """Queues micro-batch `number` (from 0, as submitted).

        Returns:
            A future of (loss, correct), or of a Failure.
        """
        self.heard()
        self.passed.up.note(number, activation.nbytes + labels.nbytes)
        answer: torch.futures.Future[Any] = torch.futures.Future()
        self._unanswered.add(answer)
        self._to_compute.add(answer)
        self._contexts.note(context_id, part)
        self._order.submit(number, lambda: self._run(number, part, context_id, activation, labels, answer))
        if self._failure is not None:
            self._answer(answer, self._failure)
        return answer

    def check(self) -> None:
        """Raises the first error of the server half, if there was one."""
        if self._failure is not None:
            raise self._failure.to_error(f"server half of {self.name}")

    def settle(self, look_s: float = LOOK_S) -> None:
        """Waits until all that was delivered has been computed, updates included, however long it takes.

        The last gradient leaves before the optimiser step, so the device may be done before the server is.

        Args:
            look_s: seconds after which `remind` is called, each time.

        Raises:
            PeerError: the first error of the server half.
        """
        self.become_idle(look_s)
        self.check()

    def become_idle(self, look_s: float = LOOK_S) -> None:
        """Waits until nothing is being computed; see `settle`."""
        while True:
            try:
                return self._order.settle(look_s)
            except TimeoutError:  # computing in this very process: it is not lost, and Ctrl-C ends it
                self.remind()

    def remind(self) -> None:
        """Says, now and then, how long the server half has been computing the same micro-batch."""
        now = time.monotonic()
        seconds = now - self._computing_since
        if min(seconds, now - self._reminded) > REMIND_S:
            self._reminded = now
            log.info("the server half of %s has been computing for %.0f s", self.name, seconds)

    def stop(self, reason: str) -> None:
        """Refuses all that has not been answered yet, so that the device stops waiting."""
        self._failure = self._failure or Failure.of(PeerError(reason))
        self._stop.set(reason)
        for answer in list(self._unanswered):
            self._answer(answer, self._failure)

    def leave(self, reason: str) -> None:
        """Stops for good: nobody waits for this device's micro-batches any longer."""
        self.stop(reason)
        self._order.leave()
        self._contexts.leave()

    def close(self) -> None:
        """Stops, and releases the threads once nothing is being computed.

        Does not wait for gradients on their way: a device that has fallen silent never confirms them, and
        torch's call cannot be interrupted.
        """
        self.stop("the job has ended")
        self.become_idle()
        self._stack.close()
        self._senders.shutdown(wait=False, cancel_futures=True)

    def _answer(self, answer: "torch.futures.Future[Any]", value: Any) -> None:
        try:
            self._unanswered.remove(answer)
        except KeyError:  # answered when the port was stopped
            return
        answer.set_result(value)

    def _run(
        self,
        number: int,
        part: Part,
        context_id: int,
        activation: Tensor,
        labels: Tensor,
        answer: "torch.futures.Future[Any]",
    ) -> None:
        replied = False

        def reply(result: Result) -> None:
            nonlocal replied
            if result.gradient is None:
                slot = self.downlink.reserve(0)  # the answer takes the latency; it does not hold the link
            else:
                slot = self.downlink.reserve(result.gradient.nbytes)
                self._timeline.add(Span(Stage.DOWNLINK, part.iteration, part.index, slot.start, slot.end))
            self._pacer.submit(self._pace, slot, number, context_id, activation, result, answer)
            replied = True

        if self._failure is None:
            self._computing_since = time.monotonic()
            try:
                leaf = activation.detach().requires_grad_(activation.requires_grad)
                self._process(part, leaf, labels, reply)
            except Exception as error:  # the half is broken: what follows is refused for this first reason
                self._failure = self._failure or Failure.of(error)
            self._computing_since = math.inf
        self.heard()  # the silence begins now that it is the device's turn
        self._to_compute.discard(answer)
        if not replied:
            with self._contexts.using(context_id):  # not any longer
                self._answer(answer, self._failure)

    def _pace(self, slot: Slot, *gradient: Any) -> None:
        try:
            self.downlink.wait(slot)
            # Sending blocks until the device has confirmed, and over a real line the confirmation queues
            # behind activations. Several at a time keep the downlink busy.
            self._senders.submit(self._send, *gradient)
        except Exception as error:
            self._answer(gradient[-1], _undelivered(error))

    def _send(
        self,
        number: int,
        context_id: int,
        activation: Tensor,
        result: Result,
        answer: "torch.futures.Future[Any]",
    ) -> None:
        value: Any = (result.loss, result.correct)
        try:
            if result.gradient is not None:
                # d(a . g)/da = g exactly: autograd sends the gradient through the boundary unchanged.
                root = torch.dot(activation.flatten(), result.gradient.flatten())
                self.passed.down.note(number, result.gradient.nbytes)
                with self._contexts.using(context_id):
                    dist_autograd.backward(context_id, [root])  # type: ignore[attr-defined]
        except Exception as error:  # whatever it is: the device waits for an answer
            value = _undelivered(error)
        self._answer(answer, value)


def _undelivered(error: Exception) -> Failure:
    return Failure.of(PeerError(f"gradient not delivered: {first_line(error)}"))


@rpc.functions.async_execution  # type: ignore[untyped-decorator]
def deliver(
    port: Any, number: int, part: Part, context_id: int, activation: Tensor, labels: Tensor
) -> "torch.futures.Future[Any]":
    """RPC handler: delivers a micro-batch to the port that the RRef `port` names."""
    return port.local_value().deliver(number, part, context_id, activation, labels)  # type: ignore[no-any-return]


def report(port: Any, iteration: int, loss: float) -> None:
    """RPC handler: the device has finished `iteration`."""
    port.local_value().trained(iteration, loss)
