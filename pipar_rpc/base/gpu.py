"""Computing on CPUs and GPUs alike: where a half's work goes, and how others learn that it is done.

A CPU has done an operation when the call returns. A GPU is given operations and does them later: those of one
stream in their order, those of several streams beside each other. So each half computes on a `Stream`, and
what it hands on is a `Later` where it is not there yet. On a CPU a stream has nothing to do: `HostStream`.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from pipar_rpc.base.gpu_clock import Moment, StreamClock

T = TypeVar("T")

WORKSPACES = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACES = ":4096:8"  # with which cuBLAS gives the same bits on every stream
_NOTHING: AbstractContextManager[None] = nullcontext()


class _Awaited(Protocol):
    def synchronize(self) -> None: ...


class Later(Generic[T]):
    """A value that will be there once a stream has got to an event.

    Args:
        event: event in the stream.
        make: function that makes the value, called after the event.
    """

    def __init__(self, event: _Awaited, make: Callable[[], T]) -> None:
        self._event, self._make = event, make

    def wait(self) -> T:
        """Waits for the event, and not for what the stream was given after it; returns the value."""
        self._event.synchronize()
        return self._make()


def settled(value: T | Later[T]) -> T:
    """The value, waited for if it is not there yet."""
    return value.wait() if isinstance(value, Later) else value


class Stream(Protocol):
    """Operations on one torch device, done in the order in which they were given."""

    def used(self) -> AbstractContextManager[object]:
        """Gives the operations of the block to this stream."""
        ...

    def alone(self) -> AbstractContextManager[object]:
        """As `used`; at the end of the block all is done, so that any thread may use what it has made."""
        ...

    def finish(self) -> None:
        """Waits until all that the stream was given is done."""

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, for operations of this stream; itself if it is there already."""
        ...

    def to_host(self, tensor: Tensor) -> Tensor:
        """The tensor in the host's memory, to be read after a later `when_done`; itself if it is there."""
        ...

    def read(self, number: Tensor, count: Tensor | int) -> tuple[float, int] | Later[tuple[float, int]]:
        """A number and a count, each a scalar."""
        ...

    def when_done(self, make: Callable[[], T]) -> T | Later[T]:
        """What `make` returns when it is called after all that the stream was given until now."""
        ...

    def now(self) -> float | Moment:
        """When all that the stream was given until now is done, as a time of `time.monotonic()`."""
        ...

    def timed(self, work: Callable[[], T], clock: Callable[[], float]) -> tuple[T, float]:
        """What `work` returns, and how many seconds the device took for it, and for nothing before it.

        Args:
            work: function that gives operations to this stream.
            clock: clock for a device that has none of its own.
        """
        ...


class HostStream:
    """The CPU, which has done everything when the call returns.

    Args:
        device: torch device.
    """

    now = staticmethod(time.monotonic)

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def used(self) -> AbstractContextManager[object]:
        """Does nothing."""
        return _NOTHING

    def alone(self) -> AbstractContextManager[object]:
        """Does nothing."""
        return _NOTHING

    def finish(self) -> None:
        """Does nothing."""

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor.to(self._device)

    def to_host(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor.cpu()

    def read(self, number: Tensor, count: Tensor | int) -> tuple[float, int]:
        """Both at once."""
        return float(number), int(count)

    def when_done(self, make: Callable[[], T]) -> T:
        """Calls `make` at once."""
        return make()

    def timed(self, work: Callable[[], T], clock: Callable[[], float]) -> tuple[T, float]:
        """See `Stream.timed`; by the clock."""
        began = clock()
        result = work()
        return result, clock() - began


class GpuStream:
    """A stream of a GPU. Copies go through pinned memory, which torch keeps until the stream has used it.

    Args:
        stream: torch's stream.
    """

    def __init__(self, stream: "torch.cuda.Stream") -> None:
        self._device, self._stream = stream.device, stream
        self._clock = StreamClock(lambda: self._recorded(enable_timing=True))

    def used(self) -> AbstractContextManager[object]:
        """See `Stream.used`; in this thread."""
        return torch.cuda.stream(self._stream)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `Stream.alone`."""
        with self.used():
            yield
        self.finish()

    def finish(self) -> None:
        """Waits for this stream, and not for the others of the GPU."""
        self._stream.synchronize()

    def to_device(self, tensor: Tensor) -> Tensor:
        """A copy that the stream makes when it gets there."""
        if tensor.is_cuda or not tensor.numel():
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def to_host(self, tensor: Tensor) -> Tensor:
        """Pinned memory that the stream fills when it gets there."""
        if not tensor.is_cuda:
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor.detach(), non_blocking=True)

    def read(self, number: Tensor, count: Tensor | int) -> Later[tuple[float, int]]:
        """Both in one copy."""
        together = torch.stack([number.double(), number.new_zeros((), dtype=torch.float64) + count])
        host = self.to_host(together)
        return self.when_done(lambda: (float(host[0]), int(host[1])))

    def when_done(self, make: Callable[[], T]) -> Later[T]:
        """To be waited for by its event, in any thread, which sleeps until then."""
        return Later(self._recorded(blocking=True), make)

    def now(self) -> Moment:
        """A moment whose time is known later."""
        return self._clock.now()

    def timed(self, work: Callable[[], T], clock: Callable[[], float]) -> tuple[T, float]:
        """See `Stream.timed`; by two events."""
        self.finish()
        began = self._recorded(enable_timing=True)
        result = work()
        ended = self._recorded(enable_timing=True)
        ended.synchronize()
        return result, began.elapsed_time(ended) / 1000

    def _recorded(self, **options: bool) -> Any:
        event = torch.cuda.Event(**options)
        event.record(self._stream)
        return event


def open_stream(device: torch.device) -> Stream:
    """A stream of its own, beside those of others on the device."""
    return GpuStream(torch.cuda.Stream(device)) if device.type == "cuda" else HostStream(device)


def main_stream(device: torch.device) -> Stream:
    """The stream to which all operations go for which no other is chosen."""
    return GpuStream(torch.cuda.default_stream(device)) if device.type == "cuda" else HostStream(device)


def make_repeatable(tf32: bool = False) -> None:
    """Has GPUs give the same bits in every run, by this process; to be called before they compute.

    An operation for which torch knows no such way warns, and goes on.

    Args:
        tf32: whether float32 is multiplied with 10 bits of the mantissa, which is faster.
    """
    os.environ.setdefault(WORKSPACES, FIXED_WORKSPACES)
    torch.backends.cudnn.deterministic = True
    torch.set_deterministic_debug_mode("warn")  # `use_deterministic_algorithms` imports torch's compiler
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # which would take time
    cudnn: Any = torch.backends.cudnn
    for backend in (torch.backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn):
        backend.fp32_precision = "tf32" if tf32 else "ieee"
