"""Whatever waits has a deadline, and says who waited for whom. Named after what once could hang."""

import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import Future

import psutil
import pytest
import torch
from torch import nn
from torch.distributed import autograd as dist_autograd

from pipar_rpc.base.errors import PeerError
from pipar_rpc.base.microbatch import Part
from pipar_rpc.base.stopping import Stop
from pipar_rpc.base.threads import open_pool, repeating
from pipar_rpc.data import Batches, DataSpec, Images, Transform, load_train_part, open_source, partition
from pipar_rpc.models import DropoutStreams
from pipar_rpc.testbed.device_speed import SpeedSpec
from pipar_rpc.testbed.link import Link
from pipar_rpc.testbed.unit_times import UnitTimes
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.device import Cut, Device
from pipar_rpc.training.exchange import Result
from pipar_rpc.transport.server_port import Port
from pipar_rpc.transport.turn_order import InOrder
from tests.support.loops import NATIVE
from tests.support.overrides import SMALL
from tests.support.processes import end, survivors

# Long enough to be interrupted: 500 iterations of about 0.2 s over a slow emulated link.
LONG = (
    *(option for option in SMALL if not option.startswith(("network", "data.train_size"))),
    *("data.train_size=10000", "data.train_size_per_device=5000", "network=4g", "network.uplink_mbps=1"),
)


def started(processes, num_ranks, *overrides):
    """Ranks in the middle of an epoch."""
    ranks = processes.ranks(num_ranks, *LONG, *overrides)
    processes.wait_for("outputs/**/tensorboard/*")
    time.sleep(3)
    assert all(rank.poll() is None for rank in ranks)
    return ranks


def test_devices_end_when_the_server_is_killed(processes):
    server, *devices = started(processes, 3)
    server.send_signal(signal.SIGKILL)
    for rank, device in enumerate(devices, start=1):
        code, output = end(device, timeout=20)
        assert code == 1
        assert f"pipar_rpc: error: device{rank} lost the server: " in output


def test_devices_end_when_the_server_is_silent(processes):
    server, *devices = started(processes, 3, "node.timeout_s=8")
    server.send_signal(signal.SIGSTOP)
    for rank, device in enumerate(devices, start=1):
        code, output = end(device, timeout=40)
        assert code == 1
        assert f"pipar_rpc: error: device{rank} lost the server: " in output


def test_a_rank_that_never_comes_ends_the_wait_for_it(processes):
    server, device = processes.ranks(3, *SMALL, "node.timeout_s=5", only=(0, 1))
    for process in (server, device):
        code, output = end(process, timeout=40)
        assert code == 1
        assert re.search(r"rank \d \(\w+\) (waited 5 s for the other 2 ranks|could not join)", output), output


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["torchrun", "terminal"])
def test_one_interrupt_ends_all_ranks(processes, send):
    run = processes.start_torchrun(3, *LONG)
    processes.wait_for("outputs/*/*/tensorboard/*")
    time.sleep(2)
    send(run.pid, signal.SIGINT)
    _, output = end(run, timeout=20)
    assert "pipar_rpc: interrupted" in output
    assert processes.left_over() == []


def test_no_rank_outlives_torchrun(processes):
    """Killed, it can end none of them. They once trained on, unseen, for all the epochs that were left."""
    run = processes.start_torchrun(2, *LONG, "checkpoint.every=1", "aggregation.every=1")
    (folder,) = {path.parent for path in [processes.wait_for("outputs/*/*/checkpoints/round_000002.pt")]}
    ranks = psutil.Process(run.pid).children()
    assert len(ranks) == 2
    run.kill()
    assert not survivors(ranks, timeout=10)
    _, output = end(run)
    for rank in range(2):
        assert f"pipar_rpc: error: rank {rank} ends: torchrun, process {run.pid}, is gone" in output
    last = max(folder.glob("round_*.pt"))
    assert torch.load(last)["round"] == int(last.stem.removeprefix("round_"))


class SilentExchange:
    """A server that never answers."""

    def submit(self, part, activation, labels):
        return Future()

    def close(self):
        pass


def make_device(exchange, stop, uplink=None, speed=NATIVE):
    data = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    return Device(
        name="device3",
        cut=Cut(
            layers=layers,
            exchange=exchange,
            num_micro_batches=2,
            dropout=DropoutStreams(layers, seed=0, device=3),
            speed=speed,
        ),
        optimizer={"lr": 0.1},
        batches=Batches(data, 4, Transform((0.0,), (1.0,)), seed=0, device=1),
        report=lambda iteration, loss: None,
        uplink=uplink or Link(),
        smallest=1,
        device=torch.device("cpu"),
        timeline=Timeline(),
        stop=stop,
    )


def begun(work, *args):
    """What comes of `work`, which runs on a thread of its own and has got to where it waits."""
    future: Future = Future()

    def run():
        try:
            future.set_result(work(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    with pytest.raises(TimeoutError):
        future.result(0.3)
    return future


SLOW = SpeedSpec(NATIVE.model, 1, 1, profile=(UnitTimes("one", {1: 3600.0}, {1: 3600.0}, 3600.0),))


@pytest.mark.parametrize(
    "waiting",
    [
        lambda stop: make_device(SilentExchange(), stop).train(1, 0, 1),  # for a gradient
        lambda stop: make_device(SilentExchange(), stop, speed=SLOW).train(1, 0, 1),  # in a forward pass
        lambda stop: make_device(SilentExchange(), stop, Link(1e-6, sleep=stop.sleep)).upload(),
    ],
    ids=["gradient", "emulated computing", "emulated upload"],
)
def test_a_stopped_device_ends_at_once(waiting):
    """It once went on sleeping, and counted as lost because it had not closed within 30 s."""
    stop = Stop()
    device = begun(waiting, stop)
    stop.set("stopped by the server")
    with pytest.raises(PeerError, match="stopped by the server"):
        device.result(30)


def test_a_stopped_device_ends_at_its_next_micro_batch():
    stop = Stop()
    device = make_device(SilentExchange(), stop)
    stop.set("stopped by the server")
    with pytest.raises(PeerError, match=r"^stopped by the server"):
        device.train(1, 0, 1)
    device.close()


def test_a_device_that_loads_its_images_can_be_stopped():
    spec = DataSpec("synthetic", 1, 8, 10, seed=0, train_size=1000)
    source, stop = open_source(spec, None, download=False), Stop()
    whole = load_train_part(source, spec, 1, 2, stop.check)
    assert torch.equal(whole.images, source.images("train", partition(source.labels("train"), spec, 2)[0]))
    images = source.images

    def few(split, indices):
        stop.set("stopped by the server")
        return images(split, indices)

    source.images = few
    with pytest.raises(PeerError, match="stopped by the server"):
        load_train_part(source, spec, 1, 2, stop.check)


def make_port(process, mbps=None):
    stop = Stop()
    return Port("device1", process, Link(mbps, sleep=stop.sleep), Timeline(), stop=stop)


def submit(port, number, count=2, context_id=0):
    part = Part(epoch=1, iteration=0, index=number + 1, count=count, weight=0.5)
    activation = torch.ones(1, 2, requires_grad=True) * 1
    return port.deliver(number, part, context_id, activation, torch.zeros(1, dtype=torch.int64))


def test_closing_a_port_does_not_wait_for_a_gradient_that_is_never_confirmed(monkeypatch):
    """A device that is stopped just then keeps the sender inside torch for as long as RPCs may take."""
    sending, never = threading.Event(), threading.Event()

    def unconfirmed(context_id, roots):
        sending.set()
        never.wait(60)

    monkeypatch.setattr("torch.distributed.autograd.backward", unconfirmed)
    process = lambda part, activation, labels, reply: reply(Result(torch.ones(1, 2), 0.0, 0))  # noqa: E731
    port = make_port(process)
    answer = submit(port, 0)
    assert sending.wait(10)
    began = time.monotonic()
    port.close()
    assert time.monotonic() - began < 10
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
        reply(Result(torch.zeros(1, 2), 0.0, 0))
        time.sleep(0.3)
        updated.set()

    port = make_port(process)
    submit(port, 0)
    port.settle(5)
    assert updated.is_set()
    port.close()


def test_settle_waits_for_a_slow_server_half_and_says_so(monkeypatch, caplog):
    """It is this very process that computes: a job once ended because it took longer than a deadline."""
    monkeypatch.setattr("pipar_rpc.port.REMIND_S", 0.1)
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
    slow = make_port(lambda *args: args[-1](Result(torch.ones(1, 2), 0.0, 0)), mbps=1e-6)
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
    reply(Result(torch.ones(1, 2), 0.0, 0))


def broken(*_):
    raise ValueError("broken")


@pytest.mark.parametrize("where", ["torch.distributed.autograd.backward", "pipar_rpc.link.Link.wait"])
def test_whatever_goes_wrong_on_a_gradient_s_way_the_device_gets_an_answer(monkeypatch, where):
    """Anything but a RuntimeError once left it waiting."""
    monkeypatch.setattr(where, broken)
    port = make_port(replying)
    answer = submit(port, 0)
    port.settle(5)
    port._pacer.submit(lambda: None).result(5)
    port._senders.shutdown(wait=True)
    assert answer.done()
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
    port._senders.shutdown(wait=True)
    submit(port, 1, context_id=new_context())  # it was on its way
    port.become_idle(5)
    assert contexts() == before
    port.close()


def test_calls_run_in_the_order_of_their_numbers():
    """An upload once overtook the training that it was to follow."""
    with open_pool("test") as pool:
        in_order, seen = InOrder(pool), []
        for number in reversed(range(50)):
            in_order.submit(number, lambda number=number: seen.append(number))
        in_order.settle(5)
    assert seen == list(range(50))


@pytest.mark.parametrize(
    "stderr", ["os.close(reading)", "os.write(2, bytes(1 << 16))"], ids=["closed", "full"]
)
def test_the_watchdog_ends_a_process_whose_stderr_nobody_reads(processes, stderr):
    """As when torchrun, which read it, was killed; seen as a device that stayed for ever."""
    program = (
        "import os, time; from pipar_rpc.base.threads import watchdog\n"
        f"reading, writing = os.pipe(); os.dup2(writing, 2); os.close(writing); {stderr}\n"
        "with watchdog(0.2, 'too long', exit_code=7): time.sleep(60)"
    )
    run = processes.start([sys.executable, "-c", program])
    assert run.wait(timeout=30) == 7


def test_what_is_repeated_goes_on_after_an_error(caplog):
    """The server's heartbeat once ended silently with the first error of the store."""
    calls, enough = [], threading.Event()

    def call():
        calls.append(len(calls))
        if len(calls) == 5:
            enough.set()
        if len(calls) < 4:
            raise PeerError("the store is away")

    with repeating(0.01, call):
        assert enough.wait(10)
    assert caplog.messages == ["the store is away; trying again every 0.01 s"]
