"""One server half for all devices, which train it in turn."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Order(Protocol):
    """Runs numbered calls one after the other; see `InOrder`."""

    def submit(self, number: int, call: Callable[[], None]) -> None:
        """Queues `call` to run after those with smaller numbers."""

    def leave(self) -> None:
        """No further calls come."""

    def settle(self, timeout_s: float) -> None:
        """Waits until the calls that could run have run; raises TimeoutError."""


class InOrder:
    """Runs numbered calls on a one-thread pool in the order of their numbers 0, 1, 2, ...

    RPC handlers run on a pool of threads, so calls arrive in any order, even those of one sender. Numbering
    them where they are sent and running them through this class restores the order.

    Args:
        pool: a pool of one thread; its only user should be this object.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._waiting: dict[int, Callable[[], None]] = {}
        self._next = 0

    def submit(self, number: int, call: Callable[[], None]) -> None:
        """Queues `call` to run after those with smaller numbers; from any thread, never blocks."""
        self._waiting[number] = call
        self._pool.submit(self._run_ready)

    def leave(self) -> None:
        """No further calls come; nothing to do, since nobody else waits for them."""

    def settle(self, timeout_s: float) -> None:
        """Waits until the calls that could run have run; raises TimeoutError."""
        self._pool.submit(lambda: None).result(timeout_s)

    def _run_ready(self) -> None:  # on the pool's one thread, so nothing here needs a lock
        while (call := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            call()


class Rotation:
    """Merges the numbered calls of several devices, one for each iteration, into one fixed order.

    That order is iteration 1 of every device, then iteration 2 of every device, and so on; devices that have
    done their last iteration of an epoch, or have left, are passed over. So the result does not depend on
    who is faster.

    Args:
        pool: a pool of one thread, which runs the calls.
        num_devices: K.

    Attributes:
        lengths: iterations of each device in an epoch; to be set before the first call.
        iteration: whose turn is next, from 0 within the epoch; to be set before the first call if training
            begins inside an epoch.
    """

    def __init__(self, pool: ThreadPoolExecutor, num_devices: int) -> None:
        self._pool = pool
        self._waiting: list[dict[int, Callable[[], None]]] = [{} for _ in range(num_devices)]
        self._done = [0] * num_devices
        self._left: set[int] = set()
        self._index = 0
        self.lengths: Sequence[int] = [1] * num_devices
        self.iteration = 0

    def lane(self, index: int) -> Order:
        """Where device `index` (from 0) puts its calls, numbered 0, 1, 2, ... through all epochs."""
        return _Lane(self, index)

    def submit(self, index: int, number: int, call: Callable[[], None]) -> None:
        """Queues call `number` of device `index`."""
        self._waiting[index][number] = call
        self._pool.submit(self._run_ready)

    def leave(self, index: int) -> None:
        """Passes device `index` over from now on."""
        self._left.add(index)
        self._pool.submit(self._run_ready)

    def settle(self, timeout_s: float) -> None:
        """As `InOrder.settle`, for the calls of all devices."""
        self._pool.submit(lambda: None).result(timeout_s)

    def _run_ready(self) -> None:  # on the pool's one thread, so nothing here needs a lock
        while len(self._left) < len(self.lengths):
            index = self._index
            if index not in self._left and self.iteration < self.lengths[index]:
                call = self._waiting[index].pop(self._done[index], None)
                if call is None:
                    return
                self._done[index] += 1
                call()
            self._pass_on()

    def _pass_on(self) -> None:
        self._index = (self._index + 1) % len(self.lengths)
        if self._index == 0:
            longest = max(n for index, n in enumerate(self.lengths) if index not in self._left)
            self.iteration = self.iteration + 1 if self.iteration + 1 < longest else 0


class _Lane:
    def __init__(self, rotation: Rotation, index: int) -> None:
        self._rotation, self._index = rotation, index

    def submit(self, number: int, call: Callable[[], None]) -> None:
        self._rotation.submit(self._index, number, call)

    def leave(self) -> None:
        self._rotation.leave(self._index)

    def settle(self, timeout_s: float) -> None:
        self._rotation.settle(timeout_s)
