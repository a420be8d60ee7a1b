"""How a device addresses its port on a server rank, and the RPC handlers behind that address."""

import itertools
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed import rpc

from pipar_rpc.base.errors import Failure, PeerError
from pipar_rpc.transport.gradient_carrier import WayBack
from pipar_rpc.transport.gradient_sender import Answer, Delivered
from pipar_rpc.transport.rpc_futures import handler
from pipar_rpc.transport.wire import Label, read


class Receiver(Protocol):
    """What the messages of a device go to; see `server_port.Port`."""

    def deliver(self, batch: Delivered) -> None:
        """Queues a micro-batch."""

    def trained(self, iteration: int, loss: float) -> None:
        """Notes that the device has finished an iteration."""


class PortReference(NamedTuple):
    """A reference to a port.

    Attributes:
        owner: name of the worker that holds the port.
        key: number of the port there. Messages carry it in the place of the RRef, which takes as much Python
            on its way as the rest of a micro-batch.
        port: the port, which lives for as long as it is referred to.
    """

    owner: str
    key: int
    port: "rpc.RRef[Receiver]"


_known: dict[int, Receiver] = {}  # the ports of this process
_keys = itertools.count()


def register(port: Receiver) -> int:
    """Makes a port known to the handlers; returns its key."""
    key = next(_keys)
    _known[key] = port
    return key


def forget(key: int) -> None:
    """Ends what `register` began: messages that come later are refused."""
    _known.pop(key, None)


@handler
def deliver(
    key: int,
    number: int,
    label: Label,
    context_id: int,
    payload: Tensor | None,
    ticket: Tensor | None,
) -> Answer:
    """RPC handler: delivers a micro-batch to a port; without a payload, the ticket is it: `with_ticket`."""
    if payload is None:
        assert ticket is not None
        payload = ticket.detach().view(torch.uint8)
    answer: Answer = torch.futures.Future()
    port = _known.get(key)
    if port is None:
        answer.set_result(Failure.of(PeerError("the job has ended")))
    else:
        part, activation, labels = read(label, payload)
        way_back = None if ticket is None else WayBack(ticket)
        port.deliver(Delivered(number, part, context_id, activation, labels, way_back, answer))
    return answer


def report(key: int, iteration: int, loss: float) -> None:
    """RPC handler: notes that the device has finished `iteration`, if its job has not ended."""
    port = _known.get(key)
    if port is not None:
        port.trained(iteration, loss)
