"""The server's end of a device's exchange: micro-batches arrive, gradients leave.

See activation_sender.py for the whole picture.
"""

import logging
import math
import time
from concurrent.futures import Future
from contextlib import ExitStack

from torch.distributed import rpc

from pipar_rpc.base.errors import Failure, PeerError
from pipar_rpc.base.gpu import Later
from pipar_rpc.base.shared_pools import open_share
from pipar_rpc.base.stopping import Stop
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.timing.traffic import Traffic
from pipar_rpc.training.exchange import Process, Result
from pipar_rpc.transport.autograd_contexts import Contexts
from pipar_rpc.transport.gradient_sender import Answer, Delivered, GradientSender, undelivered
from pipar_rpc.transport.port_reference import PortReference, forget, register
from pipar_rpc.transport.server_order import COMPUTE_THREADS, InOrder, Lane

log = logging.getLogger(__name__)

LOOK_S = 1.0
REMIND_S = 10.0  # time between two lines about a server half that computes for long


class Port:
    """Puts one device's micro-batches in order, has them computed and answers them.

    Args:
        name: name of the device, for errors.
        process: server half of the device.
        downlink: emulated downlink of the device.
        timeline: record of the downlink's spans.
        order: lane that runs the server half's work; by default one of this port's own.
        stop: request to end the downlink's sleeps.

    Attributes:
        iteration: number of iterations of the epoch that the device has reported as done.
        loss: mean loss of the last of them.
        slowest_s: longest time of an iteration so far, in seconds; None before the first one.
        traffic: record of when activations arrived and gradients left.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        downlink: Link,
        timeline: Timeline,
        order: Lane | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.name, self._key = name, register(self)
        self.downlink, self.traffic = downlink, Traffic()
        self.iteration, self.loss = 0, float("nan")
        self.slowest_s: float | None = None
        self._last_heard = self._iteration_began = time.monotonic()
        self._to_compute: set[Answer] = set()
        self._stop, self._computing_since, self._reminded = stop or Stop(), math.inf, 0.0
        self._process = process
        self._unanswered: set[Answer] = set()
        self._contexts = Contexts()
        self._failure: Failure | None = None
        self._stack = ExitStack()
        leaving, answer = self.traffic.down, self._answer
        self._sender = GradientSender(downlink, timeline, leaving, self._contexts, answer)
        self._order = order or InOrder(self._stack.enter_context(open_share("compute", COMPUTE_THREADS)))

    def reference(self) -> PortReference:
        """The reference with which the device addresses this port."""
        return PortReference(rpc.get_worker_info().name, self._key, rpc.RRef(self))

    def begin_round(self, iteration: int, rests: bool) -> None:
        """Says what a round is to bring, before the device is asked to train; see `Lane.begin_round`."""
        self._order.begin_round(iteration, rests)

    def listen(self) -> None:
        """Begins to expect signs of life, as the device has just been asked to train."""
        self._last_heard = self._iteration_began = time.monotonic()

    def heard(self) -> None:
        """Notes a sign of life of the device."""
        self._last_heard = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the device's last sign of life; 0 while it waits for the server."""
        if self._to_compute:
            return 0.0
        return time.monotonic() - max(self._last_heard, self._sender.waits_since)

    def trained(self, iteration: int, loss: float) -> None:
        """Notes that the device has finished `iteration` (from 0)."""
        self.heard()
        self.slowest_s = max(self.slowest_s or 0.0, self._last_heard - self._iteration_began)
        self._iteration_began = self._last_heard
        self.iteration, self.loss = iteration + 1, loss

    def deliver(self, batch: Delivered) -> None:
        """Queues a micro-batch; its answer is a Failure if the server half has failed."""
        self.heard()
        labels_bytes = 0 if batch.labels is None else batch.labels.nbytes
        self.traffic.up.note(batch.number, batch.activation.payload.nbytes + labels_bytes)
        self._unanswered.add(batch.answer)
        self._to_compute.add(batch.answer)
        self._contexts.note(batch.context_id, batch.part)
        self._order.submit(batch.number, lambda: self._run(batch), batch.ends_iteration)
        if self._failure is not None:
            self._answer(batch.answer, self._failure)

    def check(self) -> None:
        """Raises the first error of the server half, if there was any."""
        if self._failure is not None:
            raise self._failure.to_error(f"server half of {self.name}")

    def settle(self, look_s: float = LOOK_S) -> None:
        """Waits until all that was delivered has been computed, updates included, however long it takes.

        The last gradient leaves before the optimiser step, so the device may be done before the server is.

        Args:
            look_s: seconds between two calls of `remind`.

        Raises:
            PeerError: the server half has failed; this is its first error.
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
        """Stops, and leaves the threads once nothing is being computed; see `GradientSender.close`."""
        self.stop("the job has ended")
        self.become_idle()
        forget(self._key)
        self._stack.close()
        self._sender.close()

    def _answer(self, answer: Answer, value: Result | Failure) -> None:
        try:
            self._unanswered.remove(answer)
        except KeyError:  # answered when the port was stopped
            return
        answer.set_result(value)

    def _run(self, batch: Delivered) -> None:
        replies: list[Result | Later[Result]] = []

        answered = batch.emptied()  # what was computed with is in nobody's way while the gradient waits

        def reply(result: Result | Later[Result]) -> None:
            self._sender.submit(answered, result)
            replies.append(result)

        def end(done: Future[None]) -> None:
            self._end(answered, done.exception(), bool(replies))

        error: Exception | None = None
        later: Future[None] | None = None
        if self._failure is None:
            self._computing_since = time.monotonic()
            try:
                later = self._process(batch.part, batch.activation, batch.labels, reply)
            except Exception as failed:
                error = failed
            self._computing_since = math.inf
        if later is not None:  # computed together with what other devices send
            later.add_done_callback(end)
        else:
            self._end(batch, error, bool(replies))

    def _end(self, batch: Delivered, error: BaseException | None, replied: bool) -> None:
        """Ends a micro-batch that has been computed, or has failed."""
        if error is not None:  # the half is broken: what follows is refused for this first reason
            self._failure = self._failure or Failure.of(error)
        self.heard()  # the silence begins now that it is the device's turn
        self._to_compute.discard(batch.answer)
        if not replied:
            with self._contexts.using(batch.context_id):  # releases it if the device has left meanwhile
                self._answer(batch.answer, self._failure or undelivered(PeerError("there is none")))
