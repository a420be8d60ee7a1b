"""Sends gradients back to their device: over the emulated downlink, then by distributed autograd.

Where the labels stay on the device, outputs of the server half go the same way and are part of the answer.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.distributed import autograd as dist_autograd

from pipar_rpc.base.alarms import Alarms
from pipar_rpc.base.errors import Failure, PeerError, first_line
from pipar_rpc.base.gpu import Later
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.shared_pools import start_share
from pipar_rpc.compression.coding import Coded, Crossing
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Span, Stage, Timeline
from pipar_rpc.timing.traffic import TrafficLog
from pipar_rpc.training.exchange import Result
from pipar_rpc.transport.autograd_contexts import Contexts
from pipar_rpc.transport.gradient_carrier import WayBack

Answer: TypeAlias = "torch.futures.Future[Result | Failure]"  # without a gradient, which goes its own way
MAX_SENDERS = 16  # gradients of one device that may be on their way at a time
NOTHING = torch.empty(0, dtype=torch.uint8)
SENDERS = 128  # and of all devices of a process: with more than eight, each may have fewer


class Delivered(NamedTuple):
    """A micro-batch that has come from a device.

    Attributes:
        number: place among all that the device sends, from 0.
        part: place within the mini-batch.
        context_id: the device's autograd context.
        activation: output of the device half, or the gradient of the server half's, as its codec encodes it.
        labels: labels as the data set gives them, shape [b, ...]; None if they stay on the device.
        way_back: way of the gradient to the device; None if none is wanted.
        answer: future of the result without the gradient, or of a Failure.
    """

    number: int
    part: Part
    context_id: int
    activation: Coded
    labels: Tensor | None
    way_back: WayBack | None
    answer: Answer

    @property
    def ends_iteration(self) -> bool:
        """Whether it is the last one that its device sends in an iteration."""
        return self.part.is_last and self.activation.crossing is not Crossing.FIRST

    def emptied(self) -> "Delivered":
        """The same without what was to be computed with: all that the answer needs."""
        return self._replace(activation=self.activation._replace(payload=NOTHING), labels=None)


class GradientSender:
    """Sends the gradients of one device, in the order in which they were computed.

    Args:
        downlink: the device's emulated downlink.
        timeline: record of the downlink's spans.
        leaving: record of when gradients leave.
        contexts: the device's autograd contexts.
        answer: function called with the future of a micro-batch and its value when the gradient has been
            delivered, or cannot be.
    """

    def __init__(
        self,
        downlink: Link,
        timeline: Timeline,
        leaving: TrafficLog,
        contexts: Contexts,
        answer: Callable[[Answer, Result | Failure], None],
    ) -> None:
        self._downlink, self._timeline, self._leaving = downlink, timeline, leaving
        self._contexts, self._answer = contexts, answer
        self._queued: set[Answer] = set()
        self._sending: set[Answer] = set()
        self._began = 0.0
        self._slots, self._senders = Alarms(), start_share("send", SENDERS, MAX_SENDERS)
        self._waiter = start_share("wait", SENDERS)

    def submit(self, batch: Delivered, result: Result | Later[Result]) -> None:
        """Sends what the server half has made of a micro-batch, once it is there; returns at once."""
        if isinstance(result, Later):
            self._waiter.submit(self._wait, batch, result)
        else:
            self._leave(batch, result)

    def _wait(self, batch: Delivered, result: Later[Result]) -> None:
        try:
            self._leave(batch, result.wait())
        except Exception as error:
            self._answer(batch.answer, undelivered(error))

    def _leave(self, batch: Delivered, result: Result) -> None:
        payload = result.gradient if result.output is None else result.output.payload
        if payload is None:
            slot = self._downlink.reserve(0)  # the answer takes the latency; it does not hold the link
        else:
            slot, part = self._downlink.reserve(payload.nbytes), batch.part
            stage = Stage.DOWNLINK if result.output is None else Stage.OUTPUT_DOWNLINK
            self._timeline.add(Span(stage, part.iteration, part.index, slot.start, slot.end))
        self._slots.at(slot.arrival, lambda: self._begin(batch, result))

    def _begin(self, batch: Delivered, result: Result) -> None:
        self._queued.add(batch.answer)
        try:
            # Sending blocks until the device has confirmed, and over a real line the confirmation queues
            # behind activations. Several at a time keep the downlink busy.
            self._senders.submit(self._send, batch, result)
        except Exception as error:
            self._queued.discard(batch.answer)
            self._answer(batch.answer, undelivered(error))

    def _send(self, batch: Delivered, result: Result) -> None:
        value: Result | Failure = result._replace(gradient=None)
        self._sending.add(batch.answer)
        self._queued.discard(batch.answer)
        self._began = time.monotonic()
        try:
            if result.output is not None:
                output = result.output._replace(payload=compact(result.output.payload))
                value = result._replace(output=output)
                self._leaving.note(batch.number, output.payload.nbytes)
            if result.gradient is not None and batch.way_back is not None:
                root = batch.way_back.root(result.gradient)
                self._leaving.note(batch.number, result.gradient.nbytes)
                with self._contexts.using(batch.context_id):
                    dist_autograd.backward(batch.context_id, [root])  # type: ignore[attr-defined]
        except Exception as error:  # whatever it is: the device waits for an answer
            value = undelivered(error)
        self._sending.discard(batch.answer)
        self._answer(batch.answer, value)

    @property
    def waits_since(self) -> float:
        """Since when the device can go on: not yet, if all threads are busy for other devices."""
        return time.monotonic() if self._queued and not self._sending else self._began

    def close(self) -> None:
        """Drops what has not left yet, and releases the threads as they become free.

        Does not wait for gradients on their way: a device that has fallen silent never confirms them, and
        torch's call cannot be interrupted.
        """
        self._waiter.shutdown(wait=True, cancel_futures=True)
        self._slots.close()
        self._senders.shutdown(wait=False, cancel_futures=True)


def compact(tensor: Tensor) -> Tensor:
    """Returns the tensor in a storage of its own: a view would take its whole storage over the wire."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def undelivered(error: Exception) -> Failure:
    """What the device is told instead of a gradient."""
    return Failure.of(PeerError(f"gradient not delivered: {first_line(error)}"))
