"""The order in which the server computes the micro-batches of several devices.

A further order is a class with the methods of `ServerOrder`: an entry of `ORDERS`, or one of the user's that
`server.order._target_` names.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from typing import Protocol, runtime_checkable

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.shared_pools import open_share
from pipar_rpc.transport.one_thread import Compute, OpenThread, Priority, Rotation, Together

KEY = "server.order"
COMPUTE_THREADS = 16  # of this process: with more devices than that, they take turns


class Lane(Protocol):
    """Runs the numbered calls of one device one after the other; see `InOrder`."""

    def submit(self, number: int, call: Callable[[], None], ends: bool = True) -> None:
        """Queues `call` to run after those with smaller numbers.

        Args:
            number: place among the calls of the device, from 0.
            call: call to run.
            ends: whether it is the last one of an iteration.
        """

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


@runtime_checkable
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

    def submit(self, number: int, call: Callable[[], None], ends: bool = True) -> None:
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


ORDERS: dict[str, Callable[..., ServerOrder]] = {
    "separate": Separate,
    "rotation": Rotation,
    "priority": Priority,
    "together": Together,
}


def _nothing(last: bool) -> None:
    pass


@contextmanager
def open_order(
    order: str | dotted.Choice, num_devices: int, compute: Compute = _nothing
) -> Iterator[ServerOrder]:
    """Opens an order; its devices share the threads of this process.

    Args:
        order: name in `ORDERS`, or choice of one of these or of a class of the user's. It gets
            `num_devices`, `open_thread` (a function that opens a pool that runs one call at a time, by a
            name) and `compute` if it has parameters for them.
        num_devices: K.
        compute: computation of what the devices have handed in, see `Together`.

    Raises:
        UserError: no such class, it failed, or it is no order.
    """
    choice = dotted.Choice(order) if isinstance(order, str) else order
    with ExitStack() as stack:

        def open_thread(name: str) -> Executor:
            return stack.enter_context(open_share("compute", COMPUTE_THREADS))

        offered = {"num_devices": num_devices, "open_thread": open_thread, "compute": compute}
        made = dotted.make(KEY, choice, ORDERS, offered)
        if not isinstance(made, ServerOrder):
            what = f"a class with the methods begin and lane, not {type(made).__name__}"
            raise ConfigError(f"{KEY}.{dotted.TARGET}", choice.called, what)
        yield made
