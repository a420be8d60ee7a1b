"""Work that a GPU is given: with a stream that hands over nothing early, and on a GPU where there is one."""

import os
import time

import pytest
import torch

from pipar_rpc.base.gpu import (
    FIXED_WORKSPACES,
    WORKSPACES,
    GpuStream,
    HostStream,
    Later,
    main_stream,
    make_repeatable,
    open_stream,
    settled,
)
from pipar_rpc.base.gpu_clock import MOST_UNREAD, StreamClock
from tests.support.loops import CPU
from tests.support.streams import FakeStream, needs_gpu


def test_on_a_cpu_a_stream_is_nothing_but_the_calls():
    """The very tensors, at once, by the clock of the process."""
    tensor = torch.ones(3)
    for stream in (open_stream(CPU), main_stream(CPU)):
        assert isinstance(stream, HostStream)
        assert stream.to_device(tensor) is tensor
        assert stream.to_host(tensor) is tensor
        assert stream.read(torch.tensor(0.25), torch.tensor(3)) == (0.25, 3)
        assert stream.read(torch.tensor(0.25), 0) == (0.25, 0)
        assert stream.when_done(lambda: "done") == "done"
        assert stream.timed(lambda: "done", iter([1.0, 3.5]).__next__) == ("done", 2.5)
        assert stream.now is time.monotonic
        with stream.used(), stream.alone():
            stream.finish()


def test_what_a_stream_copies_is_there_after_its_event():
    stream = FakeStream()
    host = stream.to_host(torch.ones(2))
    first = stream.when_done(host.tolist)
    told = stream.read(torch.tensor(0.5), torch.tensor(4))
    assert host.tolist() != [1, 1]
    assert isinstance(first, Later)
    assert settled(first) == [1, 1]
    assert settled(told) == (0.5, 4)
    assert settled(stream.read(torch.tensor(0.5, dtype=torch.float32), 0)) == (0.5, 0)
    assert settled("there already") == "there already"


def test_no_event_waits_for_what_comes_after_it():
    stream = FakeStream()
    first = stream.when_done(lambda: None)
    later = stream.to_host(torch.ones(1))
    settled(first)
    assert later.item() != 1
    with stream.alone():
        pass
    assert later.item() == 1


class Gpu:
    """A clock that runs a tenth faster than this process's, and began at another time."""

    def __init__(self):
        self.host = 1000.0

    def __call__(self):
        return 7 + 1.1 * self.host

    def clock(self):
        self.stream = FakeStream(self)
        return StreamClock(self.stream._recorded, lambda: self.host)


def test_moments_are_told_by_the_clock_of_the_process():
    gpu = Gpu()
    clock = gpu.clock()
    moments = []
    for _ in range(3):
        gpu.host += 0.1
        moments.append(clock.now())
    gpu.host += 100
    assert gpu.stream.reached < gpu.stream.events
    assert [moment.seconds() for moment in moments] == pytest.approx([1000.11, 1000.22, 1000.33])
    assert [moment.event for moment in moments] == [None] * 3  # what torch holds for them is released


def test_clocks_are_set_anew_when_all_moments_are_known():
    """They drift apart: this one by 10 s in 100."""
    gpu = Gpu()
    clock = gpu.clock()
    gpu.host += 100
    assert clock.now().seconds() == pytest.approx(1110)
    gpu.host += 1
    assert clock.now().seconds() == pytest.approx(1101.1)


def test_a_long_round_holds_few_events():
    """Without waiting: only those that have passed are read."""
    gpu = Gpu()
    clock = gpu.clock()
    moments = [clock.now() for _ in range(2 * MOST_UNREAD)]
    assert all(moment.event for moment in moments)
    gpu.stream.reach(gpu.stream.events - 10)
    moments.append(clock.now())
    assert sum(moment.event is not None for moment in moments) == 11
    assert sum(moment.event is None for moment in moments) == 2 * MOST_UNREAD - 10
    assert [moment.seconds() for moment in moments] == pytest.approx([1000.0] * len(moments))


def test_work_is_timed_by_events_after_all_that_came_before():
    gpu = Gpu()
    clock = gpu.clock()
    del clock
    stream = gpu.stream

    def work():
        gpu.host += 2

    before = stream.to_host(torch.ones(1))
    _, seconds = stream.timed(work, lambda: pytest.fail("the process's clock"))
    assert seconds == pytest.approx(2.2)
    assert before.item() == 1
    assert stream.reached == stream.events


@pytest.fixture
def backends(monkeypatch):
    """What multiplies float32; all that a process sets once is put back."""
    monkeypatch.delenv(WORKSPACES, raising=False)
    cudnn, mode = torch.backends.cudnn, torch.get_deterministic_debug_mode()
    found = (torch.backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn)
    kept = [backend.fp32_precision for backend in found]
    filled, deterministic = torch.utils.deterministic.fill_uninitialized_memory, cudnn.deterministic
    yield found
    for backend, precision in zip(found, kept, strict=True):
        backend.fp32_precision = precision
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.set_deterministic_debug_mode(mode)
    cudnn.deterministic = deterministic
    os.environ.pop(WORKSPACES, None)


@pytest.mark.parametrize(("tf32", "precision"), [(False, "ieee"), (True, "tf32")])
def test_what_is_set_for_the_same_bits_each_time(backends, tf32, precision):
    make_repeatable(tf32)
    assert [backend.fp32_precision for backend in backends] == [precision] * 4
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.backends.cudnn.deterministic
    assert os.environ[WORKSPACES] == FIXED_WORKSPACES


@needs_gpu
def test_a_gpu_s_copies_and_clock():
    device = torch.device("cuda", 0)
    stream = open_stream(device)
    assert isinstance(stream, GpuStream)
    began = time.monotonic()
    with stream.used():
        numbers = stream.to_device(torch.arange(1 << 20, dtype=torch.float32))
        start = stream.now()
        for _ in range(50):
            numbers = numbers.sin()
        end = stream.now()
        host = stream.to_host(numbers)
        found = stream.when_done(host.clone)
        told = stream.read(numbers.sum(), (numbers > 0).sum())
    assert host.is_pinned()
    result = settled(found)
    assert torch.equal(result, numbers.cpu())
    assert settled(told)[1] == int((result > 0).sum())
    assert began < start.seconds() < end.seconds() < time.monotonic()
    assert stream.to_device(numbers) is numbers
    assert stream.timed(lambda: None, time.monotonic)[1] < 1
