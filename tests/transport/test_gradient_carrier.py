"""Payloads through distributed autograd: real RPC, from a process to itself."""

import socket
import warnings

import pytest
import torch
from torch.distributed import autograd as dist_autograd
from torch.distributed import rpc

from pipar_rpc.transport.gradient_carrier import carry, make_ticket, payload_of


def _returned(ticket, payload, context_id):
    """As the server does: the payload leaves as the ticket's gradient."""
    dist_autograd.backward(context_id, [carry(ticket, payload)])


@pytest.fixture(scope="module")
def group():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = rpc.TensorPipeRpcBackendOptions(
        init_method=f"tcp://127.0.0.1:{port}", _transports=["uv"], _channels=["basic"]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using a Backend", UserWarning)
        rpc.init_rpc("alone", rank=0, world_size=1, rpc_backend_options=options)
    yield
    rpc.shutdown(graceful=False)


def exchanged(payload):
    with dist_autograd.context() as context_id:
        ticket = make_ticket(payload.numel())
        rpc.rpc_sync("alone", _returned, args=(ticket, payload, context_id))
        return payload_of(dist_autograd.get_gradients(context_id)[ticket], payload.numel())


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 4096, 40_001])
def test_random_bytes_come_back_bit_for_bit(group, size):
    for seed in range(10):
        rng = torch.Generator().manual_seed(seed)
        payload = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=rng)
        assert torch.equal(exchanged(payload), payload)


def test_patterns_that_arithmetic_would_change_come_back_bit_for_bit(group):
    """Signalling and quiet NaN with payloads, infinities, denormal numbers, negative zero."""
    patterns = [
        0x7F800001,
        0x7FC01234,
        0xFFFFFFFF,
        0x7F800000,
        0xFF800000,
        0x00000001,
        0x807FFFFF,
        0x80000000,
    ]
    words = torch.tensor(patterns, dtype=torch.int64).to(torch.int32)
    payload = words.repeat(50).view(torch.uint8)
    assert torch.equal(exchanged(payload), payload)


def test_a_ticket_takes_one_element_whatever_its_size():
    assert make_ticket(10**6).untyped_storage().nbytes() == 4
    assert make_ticket(None) is None
