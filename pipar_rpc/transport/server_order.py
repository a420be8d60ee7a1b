"""The order in which the server computes the micro-batches of several devices.

A further order is a class with the methods of `ServerOrder` and an entry of `ORDERS`; the strategy names it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Protocol

from pipar_rpc.base.shared_pools import open_share

OpenThread = Callable[[str], Executor]

COMPUTE_THREADS = 16  # of this process: with more devices than that, they take turns


class Lane(Protocol):
    """Runs the numbered calls of one device one after the other; see `InOrder`."""

    def submit(self, number: int, call: Callable[[], None]) -> None:
        """Queues `call` to run after those with smaller numbers."""

    def begin_round(self, iteration: int, rests: bool) -> None:
        """Says what a round is to bring, before its first call and after the last one of the round before.

        Args:
            iteration: first iteration of the round, from 0 within the epoch.
            rests: whether the device sits the round out, so that no calls come.
        """

    def leave(self) -> None:
        """Says that no further calls come."""

    def settle(self, timeout_s: float) -> None:
        """Waits until the calls that could run have run; raises TimeoutError."""


class ServerOrder(Protocol):
    """Decides which device is served next. Each device puts its calls into a lane of its own.

    A lane runs the calls of its device in the order of their numbers, one at a time; a device that has left
    holds nobody up.
    """

    def begin(self, lengths: Sequence[int], iteration: int) -> None:
        """Says what is to come, before the first call.

        Args:
            lengths: number of iterations of each device in an epoch.
            iteration: iteration at which training begins, from 0 within the epoch.
        """

    def lane(self, index: int) -> Lane:
        """Returns the lane of device `index` (from 0) for calls numbered 0, 1, 2, ... through all epochs."""
        ...


class InOrder:
    """Runs numbered calls one after the other in the order of their numbers 0, 1, 2, ...

    RPC handlers run on a pool of threads, so calls arrive in any order, even those of one sender. Numbering
    them where they are sent and running them through this class restores the order.

    Args:
        pool: a pool that runs one call at a time; its only user should be this object.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._waiting: dict[int, Callable[[], None]] = {}
        self._next = 0

    def submit(self, number: int, call: Callable[[], None]) -> None:
        """Queues `call` to run after those with smaller numbers; from any thread, never blocks."""
        self._waiting[number] = call
        self._pool.submit(self._run_ready)

    def begin_round(self, iteration: int, rests: bool) -> None:
        """Does nothing, since nobody else waits for this device's calls."""

    def leave(self) -> None:
        """Says that no further calls come; does nothing, since nobody else waits for them."""

    def settle(self, timeout_s: float) -> None:
        """Waits until the calls that could run have run; raises TimeoutError."""
        self._pool.submit(lambda: None).result(timeout_s)

    def _run_ready(self) -> None:  # one at a time, so nothing here needs a lock
        while (call := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            call()


class Separate:
    """Serves each device by itself, whatever the others do: for a server half for each device.

    Args:
        num_devices: K.
        open_thread: opens a pool that runs one call at a time, by a name.
    """

    def __init__(self, num_devices: int, open_thread: OpenThread) -> None:
        names = (f"compute-device{number}" for number in range(1, num_devices + 1))
        self._lanes = [InOrder(open_thread(name)) for name in names]

    def begin(self, lengths: Sequence[int], iteration: int) -> None:
        """Does nothing: nobody waits for another device."""

    def lane(self, index: int) -> Lane:
        """Returns the lane of device `index`, which nobody else waits in."""
        return self._lanes[index]


class Rotation:
    """Merges the numbered calls of several devices, so many for each iteration, into one fixed order.

    That order is iteration 1 of every device, then iteration 2 of every device, and so on; devices that have
    done their last iteration of an epoch, sit a round out, or have left, are passed over. So the result does
    not depend on who is faster. It is for one server half that all devices train.

    Args:
        num_devices: K.
        open_thread: opens a pool that runs one call at a time, by a name.
        calls: calls of an iteration; nobody else's come between them.
    """

    def __init__(self, num_devices: int, open_thread: OpenThread, calls: int = 1) -> None:
        self._calls = calls
        self._pool = open_thread("compute-shared")
        self._waiting: list[dict[int, Callable[[], None]]] = [{} for _ in range(num_devices)]
        self._done = [0] * num_devices
        self._left: set[int] = set()
        self._resting: set[int] = set()
        self._index = self._iteration = 0  # whose turn is next
        self._lengths: Sequence[int] = [1] * num_devices

    def begin(self, lengths: Sequence[int], iteration: int) -> None:
        """Begins as `ServerOrder.begin` says."""
        self._lengths, self._iteration = lengths, iteration

    def lane(self, index: int) -> Lane:
        """Returns the lane of device `index`."""
        return _Lane(self, index)

    def begin_round(self, index: int, iteration: int, rests: bool) -> None:
        """Begins a round of device `index`, see `Lane.begin_round`; the first device has the first turn."""
        (self._resting.add if rests else self._resting.discard)(index)
        self._index, self._iteration = 0, iteration

    def submit(self, index: int, number: int, call: Callable[[], None]) -> None:
        """Queues call `number` of device `index`."""
        self._waiting[index][number] = call
        self._pool.submit(self._run_ready)

    def leave(self, index: int) -> None:
        """Passes device `index` over from now on."""
        self._left.add(index)
        self._pool.submit(self._run_ready)

    def settle(self, timeout_s: float) -> None:
        """Waits as `InOrder.settle` does, for the calls of all devices."""
        self._pool.submit(lambda: None).result(timeout_s)

    def _run_ready(self) -> None:  # one at a time, so nothing here needs a lock
        while len(self._left | self._resting) < len(self._lengths):
            index = self._index
            if index not in self._left | self._resting and self._iteration < self._lengths[index]:
                call = self._waiting[index].pop(self._done[index], None)
                if call is None:
                    return
                self._done[index] += 1
                call()
                if self._done[index] % self._calls:
                    continue
            self._pass_on()

    def _pass_on(self) -> None:
        self._index = (self._index + 1) % len(self._lengths)
        if self._index == 0:
            longest = max(n for index, n in enumerate(self._lengths) if index not in self._left)
            self._iteration = self._iteration + 1 if self._iteration + 1 < longest else 0


class _Lane:
    def __init__(self, rotation: Rotation, index: int) -> None:
        self._rotation, self._index = rotation, index

    def submit(self, number: int, call: Callable[[], None]) -> None:
        self._rotation.submit(self._index, number, call)

    def begin_round(self, iteration: int, rests: bool) -> None:
        self._rotation.begin_round(self._index, iteration, rests)

    def leave(self) -> None:
        self._rotation.leave(self._index)

    def settle(self, timeout_s: float) -> None:
        self._rotation.settle(timeout_s)


ORDERS: dict[str, Callable[[int, OpenThread], ServerOrder]] = {
    "separate": Separate,
    "rotation": Rotation,
    "rotation_in_pairs": partial(Rotation, calls=2),
}


@contextmanager
def open_order(name: str, num_devices: int) -> Iterator[ServerOrder]:
    """Opens the order of that name in `ORDERS`; its devices share the threads of this process."""
    with ExitStack() as stack:
        share = lambda _: stack.enter_context(open_share("compute", COMPUTE_THREADS))  # noqa: E731
        yield ORDERS[name](num_devices, share)
