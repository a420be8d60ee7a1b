"""The server's end of a device's way: order, answers to whoever waits, and its end."""

import re
import threading
import time

import pytest
import torch
from torch.distributed import autograd as dist_autograd

from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.stopping import Stop
from pipar_rpc.base.threads import open_pool
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.exchange import Result
from pipar_rpc.transport.gradient_carrier import make_ticket
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
    port.deliver(Delivered(number, part, context_id, sent, labels, ticket, answer))
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
    "where", ["torch.distributed.autograd.backward", "pipar_rpc.transport.gradient_sender.carry"]
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
