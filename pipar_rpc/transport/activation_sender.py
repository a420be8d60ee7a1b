"""The boundary between the two halves: activations go up, activation gradients come back.

This is the only place where autograd crosses a process. Distributed autograd carries the gradient's payload
(gradient_carrier.py); both halves use plain local autograd, plain `.grad` and plain optimisers, in an order
of their own.

    device, one `RpcExchange`                                server, one `Port` per device
      wait for the uplink slot                                 RPC handler: queue, return a future at once
      dist_autograd.context(), on a thread of its own          compute thread, in order n: forward, backward
      rpc: activation and labels, as a ticket  --------->      wait for the downlink slot, sender thread:
      gradient of the ticket  <--------------------------        dist_autograd.backward(context)
      reply: loss  <-------------------------------------        set the future

Where the device half has nothing to train, there is no ticket: torch then sends plain
messages, and the answer is the loss alone. Where the labels stay on the device, a micro-batch crosses twice:
the answer to the first crossing is the server half's output, the second one takes the output's gradient up
and is answered by the activation's as above.

A thread that has begun an autograd context can begin no other before that one is released, which any thread
may do. So a context is begun on a thread that ends as soon as the micro-batch is sent: what is in flight
holds no thread, however many devices this process has. Passing the loss through `dist_autograd.backward` over
the whole graph was tried and rejected: it blocks the server until the device's backward pass is done, copies
all gradients once per context, and runs the device's backward passes in the order of arrival.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, suppress
from functools import partial

from torch import Tensor
from torch.distributed import autograd as dist_autograd
from torch.distributed import rpc

from pipar_rpc.base.alarms import Alarms
from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.shared_pools import Share
from pipar_rpc.base.stopping import Stop
from pipar_rpc.base.threads import start_thread
from pipar_rpc.compression.coding import Coded, Crossing
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Span, Stage, Timeline
from pipar_rpc.timing.traffic import Traffic, TrafficLog
from pipar_rpc.training.exchange import Measure, Result
from pipar_rpc.transport.gradient_carrier import payload_of, with_ticket
from pipar_rpc.transport.gradient_sender import compact
from pipar_rpc.transport.port_reference import PortReference, deliver, report
from pipar_rpc.transport.rpc_futures import send
from pipar_rpc.transport.wire import label_of


class Reporter:
    """Tells the server that an iteration is done, without waiting for an answer."""

    def __init__(self, port: PortReference) -> None:
        self._port = port

    def __call__(self, iteration: int, loss: float) -> None:
        """Reports `iteration` (from 0, within the epoch) and its mean loss."""
        rpc.rpc_async(self._port.owner, report, args=(self._port.key, iteration, loss))


class RpcExchange:
    """The device's end of the exchange with a `Port` on the server.

    An answer takes as long as the server computes, and other devices' micro-batches may come before it. So
    it has no deadline of its own: `Session.serve` asks all the time whether the server is alive.

    Args:
        port: reference to the device's port on the server.
        uplink: emulated uplink of the device.
        timeline: record of the uplink's spans.
        stop: request to send nothing more.
        numbers: running numbers of the micro-batches that the port receives, from 0.
        traffic: record of when activations leave and gradients arrive.
    """

    def __init__(
        self,
        port: PortReference,
        uplink: Link,
        timeline: Timeline,
        stop: Stop,
        numbers: Iterator[int],
        traffic: Traffic,
    ) -> None:
        self._port, self._uplink, self._timeline, self._stop = port, uplink, timeline, stop
        self._numbers, self._traffic = numbers, traffic
        self._slots, self._sending = Alarms(), Share(start_thread)

    def submit(self, part: Part, activation: Coded, labels: Tensor | None) -> Future[Result]:
        """Reserves the uplink at once, and sends from another thread when it has carried what came before."""
        number = next(self._numbers)
        activation = activation._replace(payload=compact(activation.payload))
        labels = None if labels is None else compact(labels)
        slot = self._uplink.reserve(activation.payload.nbytes + (0 if labels is None else labels.nbytes))
        stage = Stage.RETURN_UPLINK if activation.crossing is Crossing.SECOND else Stage.UPLINK
        self._timeline.add(Span(stage, part.iteration, part.index, slot.start, slot.end))
        result: Future[Result] = Future()
        send_it = partial(self._send, number, (part, activation, labels), result)
        self._slots.at(slot.arrival, lambda: self._sending.submit(send_it))
        return result

    def finish(self, measure: Measure) -> None:
        """Does nothing: all has been sent that the answers need."""

    def close(self) -> None:
        """Drops what has not left, and waits for what is leaving; nobody waits for answers any longer."""
        self._slots.close()
        self._sending.shutdown(wait=True, cancel_futures=True)

    def _send(
        self, number: int, micro_batch: tuple[Part, Coded, Tensor | None], result: Future[Result]
    ) -> None:
        """Sends a micro-batch; its autograd context is this thread's first, and lasts until the answer."""
        part, activation, labels = micro_batch
        held = ExitStack()
        try:
            self._stop.check()
            context_id = held.enter_context(dist_autograd.context())
            payload, ticket = with_ticket(activation.payload, activation.answer_bytes)
            arrival = _Arrival(number, activation.answer_bytes, self._traffic.down, result, held.close)
            if ticket is not None:
                ticket.register_hook(arrival.gradient)
            label = label_of(part, activation, labels)
            message = self._port.key, number, label, context_id, payload, ticket
            self._traffic.up.note(number)
            send(self._port.owner, deliver, message, timeout_s=0).add_done_callback(arrival.answer)
        except BaseException as error:  # whatever it is: the device loop waits for the result
            held.close()
            _fail(result, error)


class _Arrival:
    """Puts together what comes back for a micro-batch: the gradient of its ticket, and the answer after it.

    Args:
        number: number of the micro-batch.
        num_bytes: size of the gradient's payload; None if none comes.
        log: record of what arrives.
        result: future that gets both.
        release: function that releases the micro-batch's autograd context.
    """

    def __init__(
        self,
        number: int,
        num_bytes: int | None,
        log: TrafficLog,
        result: Future[Result],
        release: Callable[[], None],
    ) -> None:
        self._number, self._num_bytes, self._log, self._result = number, num_bytes, log, result
        self._release = release
        self._gradient: Tensor | None = None

    def gradient(self, gradient: Tensor) -> None:
        """Takes the ticket's gradient, in a thread of autograd's."""
        self._log.note(self._number)
        if self._num_bytes is not None:
            self._gradient = payload_of(gradient.detach(), self._num_bytes)

    def answer(self, answer: Future[Result]) -> None:
        """Takes the answer, in a thread of RPC's: the device loop is woken by nobody else."""
        try:
            self._take(answer)
        finally:
            self._release()

    def _take(self, answer: Future[Result]) -> None:
        if error := answer.exception():
            _fail(self._result, error)
            return
        result = answer.result()
        if result.output is not None:
            self._log.note(self._number)
        elif self._num_bytes is not None and self._gradient is None:
            _fail(self._result, PeerError("no gradient came back: the server half does not depend on it"))
            return
        with suppress(InvalidStateError):
            self._result.set_result(result._replace(gradient=self._gradient))


def _fail(result: Future[Result], error: BaseException) -> None:
    with suppress(InvalidStateError):  # it came before
        result.set_exception(error)
