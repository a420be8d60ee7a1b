"""The boundary between the two halves: activations go up, activation gradients come back.

This is the only place where autograd crosses a process. Distributed autograd carries the gradient of one
tensor; both halves use plain local autograd, plain `.grad` and plain optimisers, in an order of their own.

    device, one pool thread per micro-batch in flight        server, one `Port` per device
      dist_autograd.context()                                  RPC handler: queue, return a future at once
      wait for the uplink slot                                 compute thread, in order n: forward, backward
      rpc: activation, labels  ------------------------->      sender thread: wait for the downlink slot,
      gradient of the activation  <----------------------        dist_autograd.backward(context)
      reply: loss  <-------------------------------------        set the future

A thread holds at most one autograd context, hence a thread per micro-batch in flight. Passing the loss
through `dist_autograd.backward` over the whole graph was tried and rejected: it blocks the server until the
device's backward pass is done, copies all gradients once per context, and runs the device's backward passes
in the order of arrival.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed import autograd as dist_autograd
from torch.distributed import rpc

from pipar_rpc.errors import PeerError, first_line
from pipar_rpc.link import Link, Slot
from pipar_rpc.microbatch import Part
from pipar_rpc.session import Failure
from pipar_rpc.timeline import Span, Stage, Timeline
from pipar_rpc.worker import open_pool


class Result(NamedTuple):
    """What a micro-batch's pass through the server half gives.

    Attributes:
        gradient: of the weighted loss with respect to the activation; on the CPU, the activation's shape.
        loss: mean over the micro-batch, unweighted.
        correct: samples whose largest logit is the label's.
    """

    gradient: Tensor
    loss: float
    correct: int


Process = Callable[[Part, Tensor, Tensor, Callable[[Result], None]], None]
"""A server half: `process(part, activation, labels, reply)` replies as soon as the gradient is there."""


class Exchange(Protocol):
    """What the device loop needs of the other half."""

    def submit(self, part: Part, activation: Tensor, labels: Tensor) -> Future[Result]:
        """Sends a micro-batch on its way, in the order of the calls; returns at once.

        Args:
            part: place within the mini-batch.
            activation: detached, on the CPU; not changed afterwards.
            labels: int64 of shape [b].
        """

    def stop(self) -> None:
        """Makes the results that are still awaited fail."""

    def close(self) -> None:
        """Releases threads."""


class LocalExchange:
    """A server half in the same process: split point Q, where only the loss is left, and tests."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def submit(self, part: Part, activation: Tensor, labels: Tensor) -> Future[Result]:
        """Runs the server half at once, in the calling thread."""
        future: Future[Result] = Future()
        self._process(part, activation, labels, future.set_result)
        return future

    def stop(self) -> None:
        """Nothing is ever awaited."""

    def close(self) -> None:
        """Nothing is held."""


class Port:
    """The server's end of one device's exchange: puts micro-batches in order, computes, sends gradients.

    Args:
        name: of the device, for errors.
        process: the server half.
        downlink: the device's emulated downlink.
        timeline: receives the downlink's spans.

    Attributes:
        last_heard: `time.monotonic()` of the device's last sign of life.
        iteration: iterations of the epoch that the device has reported as done.
        loss: mean loss of the last of them.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        downlink: Link,
        timeline: Timeline,
    ) -> None:
        self.name = name
        self.downlink = downlink
        self.last_heard = time.monotonic()
        self.iteration, self.loss = 0, float("nan")
        self._process, self._timeline = process, timeline
        self._waiting: dict[int, Callable[[], None]] = {}
        self._unanswered: set[torch.futures.Future[Any]] = set()
        self._next = 0
        self._failure: Failure | None = None
        self._stack = ExitStack()
        self._sender = self._stack.enter_context(open_pool(f"send-{name}"))
        self._compute = self._stack.enter_context(open_pool(f"compute-{name}"))

    def reference(self) -> Any:
        """The RRef with which the device addresses this port."""
        return rpc.RRef(self)

    def heard(self) -> None:
        """Notes a sign of life of the device."""
        self.last_heard = time.monotonic()

    def deliver(
        self, number: int, part: Part, context_id: int, activation: Tensor, labels: Tensor
    ) -> "torch.futures.Future[Any]":
        """Queues micro-batch `number` (from 0, as submitted).

        Returns:
            A future of (loss, correct), or of a Failure.
        """
        self.heard()
        answer: torch.futures.Future[Any] = torch.futures.Future()
        self._unanswered.add(answer)
        self._waiting[number] = lambda: self._run(part, context_id, activation, labels, answer)
        # Handlers run on several RPC threads, so numbers come in any order; only the compute thread takes
        # them out again, in sequence.
        self._compute.submit(self._run_ready)
        return answer

    def check(self) -> None:
        """Raises the first error of the server half, if there was one."""
        if self._failure is not None:
            raise self._failure.to_error(f"server half of {self.name}")

    def stop(self, reason: str) -> None:
        """Refuses all that has not been computed yet, so that the device stops waiting."""
        self._failure = self._failure or Failure.of(PeerError(reason))

    def close(self) -> None:
        """Stops, releases the threads and answers whoever still waits."""
        self.stop("the job has ended")
        self._stack.close()
        for answer in list(self._unanswered):
            self._answer(answer, self._failure)

    def _answer(self, answer: "torch.futures.Future[Any]", value: Any) -> None:
        self._unanswered.discard(answer)
        answer.set_result(value)

    def _run_ready(self) -> None:
        while (run := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            run()

    def _run(
        self,
        part: Part,
        context_id: int,
        activation: Tensor,
        labels: Tensor,
        answer: "torch.futures.Future[Any]",
    ) -> None:
        replied = False

        def reply(result: Result) -> None:
            nonlocal replied
            replied = True
            slot = self.downlink.reserve(result.gradient.nbytes)
            self._timeline.add(Span(Stage.DOWNLINK, part.iteration, part.index, slot.start, slot.end))
            self._sender.submit(self._send, slot, context_id, activation, result, answer)

        if self._failure is None:
            try:
                self._process(part, activation.detach(), labels, reply)
            except Exception as error:  # the half is broken: what follows is refused for this first reason
                self._failure = Failure.of(error)
        if not replied:
            self._answer(answer, self._failure)

    def _send(
        self,
        slot: Slot,
        context_id: int,
        activation: Tensor,
        result: Result,
        answer: "torch.futures.Future[Any]",
    ) -> None:
        self.downlink.wait(slot)
        value: Any = (result.loss, result.correct)
        try:
            # d(a . g)/da = g exactly: autograd sends the gradient through the boundary unchanged.
            root = torch.dot(activation.flatten(), result.gradient.flatten())
            dist_autograd.backward(context_id, [root])  # type: ignore[attr-defined]
        except RuntimeError as error:
            value = Failure.of(PeerError(f"gradient not delivered: {first_line(error)}"))
        self._answer(answer, value)


@rpc.functions.async_execution  # type: ignore[untyped-decorator]
def _deliver(
    port: Any, number: int, part: Part, context_id: int, activation: Tensor, labels: Tensor
) -> "torch.futures.Future[Any]":
    return port.local_value().deliver(number, part, context_id, activation, labels)  # type: ignore[no-any-return]


def _report(port: Any, iteration: int, loss: float) -> None:
    local: Port = port.local_value()
    local.heard()
    local.iteration, local.loss = iteration + 1, loss


class Reporter:
    """Tells the server that an iteration is done; does not wait for an answer."""

    def __init__(self, port: Any) -> None:
        self._port = port

    def __call__(self, iteration: int, loss: float) -> None:
        """Reports `iteration` (from 0, within the epoch) and its mean loss."""
        rpc.rpc_async(self._port.owner(), _report, args=(self._port, iteration, loss))


class RpcExchange:
    """The device's end of the exchange with a `Port` on the server.

    Args:
        port: RRef of the port.
        uplink: the device's emulated uplink.
        timeline: receives the uplink's spans.
        max_in_flight: largest number of micro-batches of one iteration; a thread each.
        timeout_s: longest wait for the answer to one micro-batch after it was sent.
    """

    def __init__(
        self, port: Any, uplink: Link, timeline: Timeline, max_in_flight: int, timeout_s: float
    ) -> None:
        self._port, self._uplink, self._timeline, self._timeout_s = port, uplink, timeline, timeout_s
        self._number = 0
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor = self._stack.enter_context(open_pool("exchange", max_in_flight))

    def submit(self, part: Part, activation: Tensor, labels: Tensor) -> Future[Result]:
        """Reserves the uplink now, so that micro-batches leave in order; sends from a pool thread."""
        number, self._number = self._number, self._number + 1
        labels = labels.clone()  # a view may drag its whole storage over the wire
        slot = self._uplink.reserve(activation.nbytes + labels.nbytes)
        self._timeline.add(Span(Stage.UPLINK, part.iteration, part.index, slot.start, slot.end))
        return self._pool.submit(self._exchange, slot, number, part, activation, labels)

    def stop(self) -> None:
        """Nothing to do: the server's port refuses what is in flight, and every call has a deadline."""

    def close(self) -> None:
        """Waits for the calls in flight and releases the threads."""
        self._stack.close()

    def _exchange(self, slot: Slot, number: int, part: Part, activation: Tensor, labels: Tensor) -> Result:
        self._uplink.wait(slot)
        with dist_autograd.context() as context_id:
            leaf = activation.requires_grad_()
            answer = rpc.rpc_sync(
                self._port.owner(),
                _deliver,
                args=(self._port, number, part, context_id, leaf, labels),
                timeout=self._timeout_s,
            )
            if isinstance(answer, Failure):
                raise answer.to_error("server")
            gradients = dist_autograd.get_gradients(context_id)  # type: ignore[attr-defined]
            return Result(gradients[leaf], *answer)
