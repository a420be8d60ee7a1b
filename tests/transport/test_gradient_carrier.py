"""Payloads through distributed autograd: real RPC, from a process to itself."""

import itertools
import pickle
import threading
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed import autograd as dist_autograd
from torch.distributed import rpc

from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.stopping import Stop
from pipar_rpc.compression.coding import Coded
from pipar_rpc.data import Images
from pipar_rpc.learning import LearningSpec, LossSpec, OptimizerSpec
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.timing.traffic import Traffic
from pipar_rpc.training.exchange import Result, WaitingExchange
from pipar_rpc.transport import activation_sender
from pipar_rpc.transport.activation_sender import RpcExchange
from pipar_rpc.transport.gradient_carrier import WayBack, make_ticket, payload_of, with_ticket
from pipar_rpc.transport.port_reference import deliver
from pipar_rpc.transport.rpc_futures import send
from pipar_rpc.transport.server_port import Port
from pipar_rpc.transport.wire import label_of
from tests.support.loops import assert_close, make_batches, train_split
from tests.support.processes import wait_until
from tests.support.streams import FakeStream

HANDLER_THREADS = 4


def _returned(ticket, payload, context_id):
    """As the server does: the payload leaves as the ticket's gradient."""
    dist_autograd.backward(context_id, [WayBack(ticket).root(payload)])


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """They meet in a file: a store that listens would do so for the rest of the tests."""
    store = tmp_path_factory.mktemp("group") / "store"
    options = rpc.TensorPipeRpcBackendOptions(
        init_method=f"file://{store}",
        num_worker_threads=HANDLER_THREADS,
        _transports=["uv"],
        _channels=["basic"],
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


def random_bytes(size, seed=0):
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 4096, 40_001])
def test_random_bytes_come_back_bit_for_bit(group, size):
    for seed in range(10):
        payload = random_bytes(size, seed)
        assert torch.equal(exchanged(payload), payload)


@pytest.mark.parametrize("part", [slice(1, 4001), slice(3, 40), slice(0, 4000, 2), slice(2, 3)], ids=str)
def test_a_payload_may_lie_anywhere_in_memory(part):
    """As those that a codec of the user's cuts out of something larger."""
    payload, ticket = random_bytes(5000)[part], make_ticket(len(range(5000)[part]))
    WayBack(ticket).root(payload).backward()
    assert torch.equal(payload_of(ticket.grad, len(payload)), payload)


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


def test_a_payload_is_its_own_ticket_where_as_much_comes_back():
    payload = random_bytes(40)
    sent, ticket = with_ticket(payload, 40)
    assert sent is None
    assert torch.equal(ticket.detach().view(torch.uint8), payload)
    for size in (None, 0, 36):
        sent, ticket = with_ticket(payload, size)
        assert sent is payload
        assert ticket is None or payload_of(torch.zeros_like(ticket), size).shape == (size,)
    assert with_ticket(random_bytes(6), 6)[0] is not None


def test_a_payload_that_autograd_may_not_touch_has_a_ticket_beside_it():
    with torch.inference_mode():
        payload = random_bytes(40).clone()
    assert with_ticket(payload, 40)[0] is payload


class Server:
    """Sends given gradients back, once it may; keeps the activations that have come."""

    def __init__(self, gradients):
        self.gradients, self.activations = gradients, []
        self.computing, self.may_go_on = threading.Event(), threading.Event()

    def process(self, part, activation, labels, reply):
        self.computing.set()
        assert self.may_go_on.wait(30)
        self.activations.append(activation)
        gradient = self.gradients[part.index - 1]
        reply(Result(gradient if activation.gradient_bytes is not None else None, part.index / 2, part.index))


@pytest.fixture
def connect(group):
    """The device's end and the server's of a way, with a `Server` behind it."""
    opened = []

    def make(server):
        stop = Stop()
        port = Port("device1", server.process, Link(), Timeline(), stop=stop)
        way = (port.reference(), Link(), Timeline(), stop, itertools.count(), Traffic())
        opened[:] = [port, RpcExchange(*way)]
        return opened[1]

    yield make
    for end in reversed(opened):
        end.close()


def submitted(exchange, activations, gradient_sizes):
    count, labels = len(activations), torch.zeros(1, dtype=torch.int64)
    return [
        exchange.submit(
            Part(1, 0, index, count, 1 / count), Coded(payload, (1, 1), torch.float32, size), labels
        )
        for index, (payload, size) in enumerate(zip(activations, gradient_sizes, strict=True), start=1)
    ]


def test_activations_and_gradients_of_any_sizes_cross_at_the_same_time(connect):
    """Larger, smaller, empty; and none for a device half with nothing to train."""
    up, down = (40_000, 3, 0, 7, 4001, 12), (10, 4001, 5, 0, None, 40_000)
    gradients = [random_bytes(size or 0, seed) for seed, size in enumerate(down)]
    activations = [random_bytes(size, 10 + seed) for seed, size in enumerate(up)]
    (server := Server(gradients)).may_go_on.set()
    found = [future.result(30) for future in submitted(connect(server), activations, down)]
    for activation, came in zip(activations, server.activations, strict=True):
        assert torch.equal(came.payload, activation)
    for index, (size, gradient, result) in enumerate(zip(down, gradients, found, strict=True), start=1):
        assert (result.loss, result.correct) == (index / 2, index)
        assert result.gradient is None if size is None else torch.equal(result.gradient, gradient)


def test_what_gpus_are_still_at_crosses_once_it_is_there(connect):
    """From stream to stream and back, several in flight: no byte crosses before it is there."""
    count, device, far = 8, FakeStream(), FakeStream()
    up, down = ([random_bytes(4000, first + n) for n in range(count)] for first in (0, count))
    came = []

    class OnStream:
        def process(self, part, activation, labels, reply):
            came.append(activation.payload)
            gradient = far.to_host(down[part.index - 1])
            reply(far.when_done(lambda: Result(gradient, part.index / 2, part.index)))

    exchange, labels = WaitingExchange(connect(OnStream()), device), torch.zeros(1, dtype=torch.int64)
    futures = []
    for index, payload in enumerate(up, start=1):
        sent = Coded(device.to_host(payload), (1, 1), torch.float32, len(payload))
        futures.append(exchange.submit(Part(1, 0, index, count, 1 / count), sent, labels))
    exchange.finish(lambda *_: pytest.fail("nothing is computed"))
    found = [future.result(30) for future in futures]
    assert all(torch.equal(*both) for both in zip(came, up, strict=True))
    assert all(torch.equal(result.gradient, sent) for result, sent in zip(found, down, strict=True))
    assert [(result.loss, result.correct) for result in found] == [(n / 2, n) for n in range(1, count + 1)]
    exchange.close()


def test_handlers_do_not_wait_while_the_server_computes(connect):
    """With more micro-batches in flight than RPC has threads, whoever asks gets an answer."""
    count = 3 * HANDLER_THREADS
    server = Server([random_bytes(8, seed) for seed in range(count)])
    futures = submitted(connect(server), server.gradients, [8] * count)
    assert server.computing.wait(30)
    assert rpc.rpc_sync("alone", abs, args=(-3,), timeout=20) == 3
    assert not any(future.done() for future in futures)
    server.may_go_on.set()
    assert all(
        torch.equal(future.result(30).gradient, sent)
        for future, sent in zip(futures, server.gradients, strict=True)
    )


def test_many_devices_share_a_few_threads(group):
    """Both ends of 64 links in one process, four micro-batches in flight on each: once six threads each."""
    devices, count, ends, waiting = 64, 4, [], []
    gradients = [random_bytes(400, seed) for seed in range(count)]
    contexts = lambda: dist_autograd._get_debug_info()["num_autograd_contexts"]  # noqa: E731
    before, before_contexts = threading.active_count(), contexts()
    for number in range(devices):
        (server := Server(gradients)).may_go_on.set()
        stop = Stop()
        port = Port(f"device{number}", server.process, Link(0.1), Timeline(), stop=stop)
        way = (port.reference(), Link(0.1), Timeline(), stop, itertools.count(), Traffic())
        ends.append((RpcExchange(*way), port))
        waiting.append(submitted(ends[-1][0], gradients, [400] * count))
    most = 0
    while not all(future.done() for futures in waiting for future in futures):
        most = max(most, threading.active_count())
        time.sleep(0.002)
    assert 0 < most - before < 150
    for futures in waiting:
        for future, sent in zip(futures, gradients, strict=True):
            assert torch.equal(future.result().gradient, sent)
    for end in itertools.chain(*ends):
        end.close()
    assert wait_until(lambda: contexts() == before_contexts, 10)


def test_a_gradient_that_does_not_come_is_an_error(connect):
    """As from a server half that does not depend on the activation: the device half would not be trained."""
    (server := Server([None])).may_go_on.set()
    (future,) = submitted(connect(server), [random_bytes(8)], [8])
    with pytest.raises(PeerError, match="no gradient came back"):
        future.result(30)


def test_a_micro_batch_that_cannot_be_sent_holds_no_later_one_up(connect, monkeypatch):
    sent = []

    def first_fails(part, *rest):
        if part.index == 1:
            raise ValueError("not this one")
        sent.append(part.index)
        return label_of(part, *rest)

    monkeypatch.setattr(activation_sender, "label_of", first_fails)
    exchange = connect(Server([]))
    failed, _ = submitted(exchange, [random_bytes(8)] * 2, [8, 8])
    with pytest.raises(ValueError, match="not this one"):
        failed.result(30)
    exchange._sending.submit(lambda: None).result(30)
    assert sent == [2]
    exchange._stop.set("the server waits for the first one")


def test_a_message_for_a_port_that_is_closed_is_refused():
    part, sent = Part(1, 0, 1, 1, 1.0), Coded(random_bytes(8), (1, 2), torch.float32, None)
    refused = deliver(-1, 0, label_of(part, sent, None), 0, sent.payload, None)
    assert "the job has ended" in refused.wait().message


def network():
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(192, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 1)]
    return nn.Sequential(*layers)


def batches(labels):
    made = make_batches(len(labels), image_size=8, num_classes=2, batch_size=7)
    made._data = Images(made._data.images, labels)
    return made


def bytes_of(sent):
    """All that pickles or tensors hold; of references, which torch alone may pickle, their names."""
    if isinstance(sent, torch.Tensor):
        return sent.detach().contiguous().view(torch.uint8).numpy().tobytes()
    if isinstance(sent, tuple):
        return b"".join(map(bytes_of, sent))
    return str(sent).encode() if isinstance(sent, rpc.PyRRef) else pickle.dumps(sent)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("tail", [0, 1])
def test_labels_that_stay_are_in_nothing_that_is_sent(connect, monkeypatch, tail):
    """And the result is that of a device that holds everything; labels that cross are found."""
    sent, labels = [], torch.rand(15, 1, generator=torch.Generator().manual_seed(0))
    learning = LearningSpec(OptimizerSpec(lr=0.01), loss=LossSpec("mse"))

    def noting(to, function, args, **options):
        sent.append(bytes_of(args))
        return send(to, function, args, **options)

    monkeypatch.setattr(activation_sender, "send", noting)
    wrap = lambda local: connect(SimpleNamespace(process=local._process))  # noqa: E731
    how = {"num_micro_batches": 3, "learning": learning}
    state, _, losses = train_split(network(), batches(labels), 2, tail_units=tail, wrap=wrap, **how)
    whole, _, expected = train_split(network(), batches(labels), 4, **how)
    assert_close(state, whole, 1e-9)
    assert losses == pytest.approx(expected)
    assert len(sent) == (3 + 3 + 1) * (1 + bool(tail))  # the last mini-batch has one sample
    everything = b"".join(sent)
    assert [bytes_of(label) in everything for label in labels] == [not tail] * 15
