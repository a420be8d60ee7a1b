"""A GPU's stream without a GPU, which notes what it is asked for and hands nothing over before its time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from pipar_rpc.base.gpu import GpuStream

NOT_THERE = 77  # what is in every byte of memory to which nothing has been copied yet

needs_gpu = pytest.mark.skipif(not torch.cuda.device_count(), reason="needs a GPU")


class FakeEvent:
    """An event that happens when somebody waits for it, with all that its stream was given before it.

    Args:
        stream: its stream.
        number: number of the event in the stream, from 1.
        at: when it happens by the GPU's clock, in seconds.
    """

    def __init__(self, stream: "FakeStream", number: int, at: float) -> None:
        self._stream, self._number, self._at = stream, number, at

    def query(self) -> bool:
        return self._stream.reached >= self._number

    def synchronize(self) -> None:
        self._stream.reach(self._number)

    def elapsed_time(self, end_event: "FakeEvent") -> float:
        return 1000 * (end_event._at - self._at)


class FakeStream(GpuStream):
    """Computes at once, as a CPU does; what it copies to the host comes with an event that is waited for.

    Args:
        clock: the GPU's clock, in seconds.

    Attributes:
        calls: what it was asked for, in order.
        events: number of events so far.
        reached: number of them that have happened.
        inside: how many blocks give it their work now.
    """

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.calls: list[str] = []
        self.events = self.reached = self.inside = 0
        self._gpu_clock, self._lock = clock, threading.Lock()
        self._coming: list[tuple[int, Tensor, Tensor]] = []
        super().__init__(cast(Any, SimpleNamespace(device=torch.device("cpu"))))

    @contextmanager
    def used(self) -> Iterator[None]:
        self.calls.append("used")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def finish(self) -> None:
        self.calls.append("finish")
        self.reach(self.events + 1)

    def to_device(self, tensor: Tensor) -> Tensor:
        """A copy; whoever brings what has not come yet is wrong."""
        for _, host, _ in self._coming:
            assert host.data_ptr() != tensor.data_ptr() or not host.numel()
        return tensor.clone()

    def to_host(self, tensor: Tensor) -> Tensor:
        value = tensor.detach().clone()
        host = torch.empty_like(value)
        host.view(-1).view(torch.uint8).fill_(NOT_THERE)
        with self._lock:
            self._coming.append((self.events + 1, host, value))
        return host

    def reach(self, number: int) -> None:
        """Does what it was given before event `number`."""
        with self._lock:
            self.reached = max(self.reached, min(number, self.events))
            for _, host, value in (own for own in self._coming if own[0] <= number):
                host.copy_(value)
            self._coming = [own for own in self._coming if own[0] > number]

    def _recorded(self, **options: bool) -> FakeEvent:
        self.events += 1
        return FakeEvent(self, self.events, self._gpu_clock())
