"""The server's end of a device's way: order, answers to whoever waits, and its end."""

import re
import threading
import time
import weakref
from concurrent.futures import Future

import pytest
import torch
from torch.distributed import autograd as dist_autograd

from pipar_rpc.base.errors import LostError, PeerError
from pipar_rpc.base.gpu import Later
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.shared_pools import start_share
from pipar_rpc.base.stopping import Stop
from pipar_rpc.base.threads import open_pool
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.exchange import Result
from pipar_rpc.transport import gradient_sender
from pipar_rpc.transport.gradient_carrier import WayBack, make_ticket
from pipar_rpc.transport.gradient_sender import Delivered
from pipar_rpc.transport.server_port import Port
from tests.support.coding import GRADIENT, one_pair
from tests.support.processes import wait_until
from tests.support.waiting import begun


def make_port(process, mbps=None):
    stop = Stop()
    return Port("device1", process, Link(mbps, sleep=stop.sleep), Timeline(), stop=stop)


def submit(port, number, count=2, context_id=0):
    part = Part(epoch=1, iteration=0, index=number + 1, count=count, weight=0.5)
    sent, labels = one_pair(), torch.zeros(1, dtype=torch.int64)
    answer, ticket = torch.futures.Future(), make_ticket(sent.gradient_bytes)
    assert ticket is not None
    port.deliver(Delivered(number, part, context_id, sent, labels, WayBack(ticket), answer))
    return answer


def test_closing_a_port_does_not_wait_for_a_gradient_that_is_never_confirmed(monkeypatch):
    """A device that is stopped just then keeps the sender inside torch for as long as RPCs may take."""
    sending, never, gave_up = threading.Event(), threading.Event(), threading.Event()

    def unconfirmed(context_id, roots):
        sending.set()
        never.wait(100)
        gave_up.set()

    monkeypatch.setattr("torch.distributed.autograd.backward", unconfirmed)
    process = lambda part, activation, labels, reply: reply(Result(GRADIENT, 0.0, 0))  # noqa: E731
    port = make_port(process)
    answer = submit(port, 0)
    assert sending.wait(10)
    port.close()
    assert not gave_up.is_set()
    assert "the job has ended" in answer.wait().message
    never.set()


def test_a_device_whose_gradient_waits_for_a_thread_is_not_silent(monkeypatch):
    """The threads that send are held by a device that confirms nothing; the other one can only wait."""
    sending, confirmed = threading.Event(), threading.Event()

    def unconfirmed(context_id, roots):
        sending.set()
        confirmed.wait(100)

    monkeypatch.setattr("torch.distributed.autograd.backward", unconfirmed)
    monkeypatch.setattr(gradient_sender, "start_share", lambda name, *most: start_share(f"one-{name}", 1))
    process = lambda part, activation, labels, reply: reply(Result(GRADIENT, 0.0, 0))  # noqa: E731
    ports = [make_port(process) for _ in range(2)]
    submit(ports[0], 0)
    assert sending.wait(10)
    answer = submit(ports[1], 0)
    wait_until(lambda: ports[1]._sender._queued)
    time.sleep(0.3)
    assert ports[1].silent_s < 0.1
    assert ports[0].silent_s > 0.2
    confirmed.set()
    answer.wait()
    time.sleep(0.2)
    assert ports[1].silent_s > 0.1
    for port in ports:
        port.close()


def test_micro_batches_are_computed_in_order_whatever_the_order_of_arrival():
    order = []
    port = make_port(lambda part, activation, labels, reply: order.append(part.index))
    for number in (2, 0, 3, 1):
        submit(port, number, count=4)
    port.settle(5)
    assert order == [1, 2, 3, 4]
    port.close()


def test_settle_waits_for_the_update_after_the_last_gradient():
    """The average was once taken of a server half whose last update was still running."""
    updated = threading.Event()

    def process(part, activation, labels, reply):
        reply(Result(GRADIENT, 0.0, 0))
        time.sleep(0.3)
        updated.set()

    port = make_port(process)
    submit(port, 0)
    port.settle(5)
    assert updated.is_set()
    port.close()


def test_settle_waits_for_a_slow_server_half_and_says_so(monkeypatch, caplog):
    """It is this very process that computes: a job once ended because it took longer than a deadline."""
    monkeypatch.setattr("pipar_rpc.transport.server_port.REMIND_S", 0.1)
    caplog.set_level("INFO")
    release = threading.Event()
    port = make_port(lambda part, activation, labels, reply: release.wait(60))
    submit(port, 0)
    settled = begun(port.settle, 0.05)
    assert port.silent_s == 0  # the device waits for the server
    assert re.search(r"the server half of device1 has been computing for \d+ s", caplog.text)
    release.set()
    settled.result(30)
    port.close()


def test_a_stopped_port_answers_whoever_waits_also_while_it_computes_or_sleeps():
    """A micro-batch that is being computed, one behind it, one that comes later; one on a slow downlink."""
    computing, release = threading.Event(), threading.Event()

    def process(part, activation, labels, reply):
        computing.set()
        release.wait(60)

    port = make_port(process)
    answers = [submit(port, 0), submit(port, 1)]
    assert computing.wait(10)
    port.stop("this device was given up")
    assert [answer.wait().message for answer in (*answers, submit(port, 2))] == [
        "this device was given up"
    ] * 3
    release.set()
    port.close()
    slow = make_port(lambda *args: args[-1](Result(GRADIENT, 0.0, 0)), mbps=1e-6)
    answer = submit(slow, 0)
    slow.settle()
    slow.close()
    assert answer.wait().message == "the job has ended"


def test_a_broken_server_half_answers_everybody_with_its_first_error():
    def process(part, activation, labels, reply):
        raise ValueError(f"broken at {part.index}")

    port = make_port(process)
    answers = [submit(port, number) for number in range(2)]
    for answer in answers:
        assert answer.wait().message == "broken at 1"
    with pytest.raises(PeerError, match="server half of device1 failed: ValueError: broken at 1"):
        port.check()
    port.close()


def test_closing_a_port_answers_those_whose_turn_never_came():
    port = make_port(lambda *_: None)
    answer = submit(port, 1)  # number 0 never arrives
    port.close()
    assert "the job has ended" in answer.wait().message


def replying(part, activation, labels, reply):
    reply(Result(GRADIENT, 0.0, 0))


def broken(*_):
    raise ValueError("broken")


@pytest.mark.parametrize(
    "where", ["torch.distributed.autograd.backward", "pipar_rpc.transport.gradient_carrier.WayBack.root"]
)
def test_whatever_goes_wrong_on_a_gradient_s_way_the_device_gets_an_answer(monkeypatch, where):
    """Anything but a RuntimeError once left it waiting."""
    monkeypatch.setattr(where, broken)
    port = make_port(replying, mbps=0.01)  # slow enough for the gradient to be waited for
    answer = submit(port, 0)
    port.settle(5)
    assert wait_until(answer.done, 10)
    assert answer.value().message == "gradient not delivered: broken"
    port.close()


def test_an_activation_is_gone_while_its_gradient_waits_for_the_downlink():
    """It is as large as the gradient, and is its own ticket; of many devices there are many."""
    port = make_port(replying, mbps=1e-6)
    payload, answer = torch.zeros(1000, requires_grad=True).clone(), torch.futures.Future()  # no leaf
    sent = one_pair()._replace(payload=payload.detach().view(torch.uint8))
    came = [weakref.ref(payload), weakref.ref(sent.payload)]
    part = Part(epoch=1, iteration=0, index=1, count=2, weight=0.5)
    port.deliver(Delivered(0, part, 0, sent, torch.zeros(1), WayBack(payload), answer))
    del payload, sent
    port.settle(5)
    assert wait_until(lambda: all(one() is None for one in came), 5)
    assert not answer.done()
    port.close()


class Event:
    """An event of a GPU that happens when a test says so."""

    def __init__(self, error=None):
        self.happened, self.awaited, self._error = threading.Event(), threading.Event(), error

    def synchronize(self):
        self.awaited.set()
        assert self.happened.wait(60)
        if self._error:
            raise self._error


def test_what_a_gpu_is_still_at_leaves_in_order_once_it_is_there(monkeypatch):
    """The lane goes on to the next micro-batch; the downlink is reserved when there is something to send."""
    sent = []
    monkeypatch.setattr(dist_autograd, "backward", lambda context_id, roots: sent.append(roots))
    events = [Event(), Event()]

    def process(part, activation, labels, reply):
        reply(Later(events[part.index - 1], lambda: Result(GRADIENT, part.index / 2, part.index)))

    port = make_port(process)
    answers = [submit(port, number) for number in range(2)]
    port.settle(5)
    assert events[0].awaited.wait(10)
    events[1].happened.set()
    assert not any(answer.done() for answer in answers)
    assert port.downlink.num_bytes == 0
    assert not events[1].awaited.is_set()
    events[0].happened.set()
    assert [answer.wait()[1:3] for answer in answers] == [(0.5, 1), (1.0, 2)]
    assert len(sent) == 2
    assert port.downlink.num_bytes == 2 * GRADIENT.nbytes
    port.close()


def test_a_gpu_that_fails_is_told_to_whoever_waits():
    event = Event(RuntimeError("CUDA error: an illegal memory access was encountered"))
    event.happened.set()
    port = make_port(lambda *args: args[-1](Later(event, lambda: Result(GRADIENT))))
    answer = submit(port, 0)
    assert answer.wait().message.startswith("gradient not delivered: CUDA error: an illegal memory access")
    port.close()


def new_context():
    """As of a device: a thread may have one at a time."""
    with open_pool("context") as pool:
        return pool.submit(lambda: dist_autograd._new_context()._context_id()).result(10)


def test_what_torch_keeps_of_a_device_that_is_gone_is_released(monkeypatch):
    """Its contexts once stayed for ever: it was to say when it was done with them."""
    contexts = lambda: dist_autograd._get_debug_info()["num_autograd_contexts"]  # noqa: E731
    dist_autograd._init(0)
    sending, sent = threading.Event(), threading.Event()

    def send(context_id, roots):
        sending.set()
        sent.wait(10)

    monkeypatch.setattr(dist_autograd, "backward", send)
    port, before = make_port(replying), contexts()
    submit(port, 0, context_id=new_context())
    assert sending.wait(10)
    submit(port, 2, context_id=new_context())  # its turn has not come
    assert contexts() == before + 2
    port.leave("this device was given up")
    assert contexts() == before + 1  # the one that is being sent
    sent.set()
    port._sender._senders.shutdown(wait=True)
    submit(port, 1, context_id=new_context())  # it was on its way
    port.become_idle(5)
    assert contexts() == before
    port.close()


def test_a_micro_batch_that_waits_for_those_of_others_is_answered_when_it_has_been_computed(monkeypatch):
    """The device waits for the server meanwhile; the second one is refused."""
    monkeypatch.setattr("torch.distributed.autograd.backward", lambda context_id, roots: None)
    handed = []

    def process(part, activation, labels, reply):
        handed.append((reply, Future()))
        return handed[-1][1]

    port = make_port(process)
    answers = [submit(port, number) for number in range(2)]
    port.settle(5)
    assert port.silent_s == 0
    assert not any(answer.done() for answer in answers)
    (reply, computed), (_, refused) = handed
    reply(Result(GRADIENT, 0.5, 0))
    computed.set_result(None)
    assert answers[0].wait().loss == 0.5
    refused.set_exception(LostError("not finite"))
    assert answers[1].wait().message == "not finite"
    with pytest.raises(LostError, match="server half of device1: not finite"):
        port.check()
    assert port.silent_s > 0
    port.close()
