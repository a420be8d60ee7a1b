"""How a gradient crosses by distributed autograd: as the bytes that its codec made of it, untouched.

The device sends a ticket with each activation: a leaf that is one element, expanded to the size of the
gradient's payload, of which 4 bytes cross. On the server, `WayBack` makes a root of it whose backward pass is
the payload. So `dist_autograd.backward` on that root sends the payload to the device as the ticket's
gradient, and no arithmetic ever touches its bits. Where a gradient is as large as its activation's payload,
as without codecs, the payload is its own ticket.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WORD_BYTES = 4  # of the float32 elements as which bytes cross


def make_ticket(num_bytes: int | None) -> Tensor | None:
    """A leaf whose gradient has room for a payload of `num_bytes`; None if none comes back."""
    if num_bytes is None:
        return None
    words = max(1, -(-num_bytes // WORD_BYTES))
    return torch.zeros(1, dtype=torch.float32).expand(words).requires_grad_()


def with_ticket(payload: Tensor, num_bytes: int | None) -> tuple[Tensor | None, Tensor | None]:
    """What is to be sent of a payload: itself and a ticket for the `num_bytes` that come back.

    Where as many come back, the payload is its own ticket, and there is no other.

    Args:
        payload: uint8 of shape [m], alone in its storage.
        num_bytes: size of what comes back; None if nothing does.
    """
    usable = num_bytes and num_bytes % WORD_BYTES == 0 and not payload.is_inference()
    if num_bytes == payload.nbytes and usable:
        return None, payload.view(torch.float32).requires_grad_()
    return payload, make_ticket(num_bytes)


def payload_of(gradient: Tensor, num_bytes: int) -> Tensor:
    """The payload that has come as a ticket's gradient: uint8 of shape [num_bytes]."""
    return gradient.view(torch.uint8)[:num_bytes]


class Carry(torch.autograd.Function):
    """A scalar that depends on a ticket; its backward pass gives a payload as the ticket's gradient."""

    @staticmethod
    def forward(ctx: Any, ticket: Tensor, payload: list[Tensor]) -> Tensor:
        """A root for the backward pass; its value means nothing. The payload is put into the list later."""
        ctx.payload = payload
        return torch.zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, None]:
        """The payload's bits as float32."""
        return ctx.payload.pop().view(torch.float32), None


class WayBack:
    """The way of a gradient back to where its ticket was made.

    It does not keep the ticket: where that is an activation, its memory is free once it has been computed
    with, while the gradient still waits for the downlink.

    Args:
        ticket: ticket that has come.
    """

    def __init__(self, ticket: Tensor) -> None:
        self._num_bytes = ticket.numel() * WORD_BYTES
        self._payload: list[Tensor] = []
        self._root: Tensor = Carry.apply(ticket, self._payload)

    def root(self, payload: Tensor) -> Tensor:
        """The root from which `dist_autograd.backward` sends `payload`: uint8 of shape [m]; once."""
        missing = self._num_bytes - payload.numel()
        is_whole = payload.is_contiguous() and payload.storage_offset() % WORD_BYTES == 0
        self._payload.append(payload if is_whole and not missing else F.pad(payload, (0, missing)))  # a copy
        return self._root
