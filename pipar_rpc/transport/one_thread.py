"""Orders that serve all devices on one thread, which has one micro-batch computed at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

OpenThread = Callable[[str], Executor]
Compute = Callable[[bool], None]
"""`compute(last)` computes what devices have handed in; `last`: nothing follows in the iteration."""


class OneThread:
    """Runs the numbered calls of several devices one after the other; subclasses say who is next.

    Args:
        num_devices: K.
        open_thread: opens a pool that runs one call at a time, by a name.
    """

    def __init__(self, num_devices: int, open_thread: OpenThread) -> None:
        self._pool = open_thread("compute-shared")
        self._waiting: list[dict[int, tuple[Callable[[], None], bool]]] = [{} for _ in range(num_devices)]
        self._done = [0] * num_devices
        self._left: set[int] = set()
        self._resting: set[int] = set()
        self._iteration = 0  # of the epoch, in which the round begins or its turn is
        self._lengths: Sequence[int] = [1] * num_devices

    def begin(self, lengths: Sequence[int], iteration: int) -> None:
        """Begins as `ServerOrder.begin` says."""
        self._lengths, self._iteration = lengths, iteration

    def lane(self, index: int) -> "OneLane":
        """Returns the lane of device `index`."""
        return OneLane(self, index)

    def begin_round(self, index: int, iteration: int, rests: bool) -> None:
        """Begins a round of device `index`, see `Lane.begin_round`, once the calls before that have run."""
        self._pool.submit(self._begin_round, index, iteration, rests)

    def submit(self, index: int, number: int, call: Callable[[], None], ends: bool) -> None:
        """Queues call `number` of device `index`, see `Lane.submit`."""
        self._waiting[index][number] = call, ends  # at once: what runs may look for what is next
        self._pool.submit(self._run_ready)

    def leave(self, index: int) -> None:
        """Waits for no calls of device `index` from now on."""
        self._pool.submit(self._leave, index)

    def settle(self, timeout_s: float) -> None:
        """Waits as `InOrder.settle` does, for the calls of all devices."""
        self._pool.submit(lambda: None).result(timeout_s)

    # What follows runs on the pool, one call at a time and in the order in which it was asked for.

    def _begin_round(self, index: int, iteration: int, rests: bool) -> None:
        (self._resting.add if rests else self._resting.discard)(index)
        self._iteration = iteration

    def _leave(self, index: int) -> None:
        self._left.add(index)
        self._run_ready()

    def _run_ready(self) -> None:
        while (index := self._next()) is not None:
            call, ends = self._waiting[index].pop(self._done[index])
            self._done[index] += 1
            call()
            self._ran(index, ends)

    def _next(self) -> int | None:
        """Number of the device, from 0, whose next call is to run now; None while it is not there yet."""
        raise NotImplementedError

    def _ran(self, index: int, ends: bool) -> None:
        """Notes that a call of a device has run, the last one of an iteration if `ends`."""
        raise NotImplementedError

    def _is_there(self, index: int) -> bool:
        return self._done[index] in self._waiting[index]


class OneLane:
    """The calls of one device, among those of the others; see `Lane` of `server_order`.

    Args:
        order: order of the calls of all devices.
        index: number of the device, from 0.
    """

    def __init__(self, order: OneThread, index: int) -> None:
        self._order, self._index = order, index

    def submit(self, number: int, call: Callable[[], None], ends: bool = True) -> None:
        """Queues `call`; see `Lane.submit`."""
        self._order.submit(self._index, number, call, ends)

    def begin_round(self, iteration: int, rests: bool) -> None:
        """Says what a round is to bring; see `Lane.begin_round`."""
        self._order.begin_round(self._index, iteration, rests)

    def leave(self) -> None:
        """Says that no further calls come."""
        self._order.leave(self._index)

    def settle(self, timeout_s: float) -> None:
        """Waits for the calls of all devices; see `Lane.settle`."""
        self._order.settle(timeout_s)


class Rotation(OneThread):
    """Merges the calls of several devices into one fixed order, for one server half that all devices train.

    That order is iteration 1 of every device, then iteration 2 of every device, and so on; all calls of an
    iteration come in a row. Devices that have done their last iteration of an epoch, sit a round out, or have
    left, are passed over. So the result does not depend on who is faster.

    Args:
        num_devices: K.
        open_thread: opens a pool that runs one call at a time, by a name.
    """

    def __init__(self, num_devices: int, open_thread: OpenThread) -> None:
        super().__init__(num_devices, open_thread)
        self._index = 0  # whose turn is next

    def _begin_round(self, index: int, iteration: int, rests: bool) -> None:
        super()._begin_round(index, iteration, rests)
        self._index = 0

    def _next(self) -> int | None:
        while len(self._left | self._resting) < len(self._lengths):
            if self._has_turn(self._index):
                return self._index if self._is_there(self._index) else None
            self._pass_on()
        return None

    def _ran(self, index: int, ends: bool) -> None:
        if ends:
            self._pass_on()

    def _has_turn(self, index: int) -> bool:
        """Whether a device takes part in the present iteration."""
        return index not in self._left | self._resting and self._iteration < self._lengths[index]

    def _pass_on(self) -> None:
        self._index = (self._index + 1) % len(self._lengths)
        if self._index == 0:
            self._end_cycle()

    def _end_cycle(self) -> None:
        """All have had their turn: the next iteration follows."""
        longest = max(n for index, n in enumerate(self._lengths) if index not in self._left)
        self._iteration = self._iteration + 1 if self._iteration + 1 < longest else 0


class Together(Rotation):
    """Has the n-th calls of an iteration of all devices run one after the other, and then all computed.

    The calls hand micro-batches in, which `compute` then computes as one batch. A device whose iteration has
    fewer calls than another's takes no part in the last ones; one that leaves takes no part from then on.
    Who takes part depends on the round alone: on its devices and their iterations.

    Args:
        num_devices: K.
        open_thread: opens a pool that runs one call at a time, by a name.
        compute: computation of what has been handed in.
    """

    def __init__(self, num_devices: int, open_thread: OpenThread, compute: Compute) -> None:
        super().__init__(num_devices, open_thread)
        self._compute = compute
        self._ended: set[int] = set()  # devices that have done the present iteration

    def _begin_round(self, index: int, iteration: int, rests: bool) -> None:
        super()._begin_round(index, iteration, rests)
        self._ended.clear()

    def _ran(self, index: int, ends: bool) -> None:
        if ends:
            self._ended.add(index)
        self._pass_on()

    def _has_turn(self, index: int) -> bool:
        return index not in self._ended and super()._has_turn(index)

    def _end_cycle(self) -> None:
        last = not any(map(self._has_turn, range(len(self._lengths))))
        self._compute(last)
        if last:
            self._ended.clear()
            super()._end_cycle()


class Priority(OneThread):
    """Serves the device with the most remaining work first, for a server half for each device.

    After the server-side priority scheduling of PipeSFL (Gao, Hu, Mashhadi, Wang and Bennis, IEEE
    Transactions on Mobile Computing 24(3), 2025): of the micro-batches that are there, the one of the device
    that will need the longest is computed next. How long is told by what each has done, for all devices begin
    a round at the same time: with d iterations done and l left in the epoch after t seconds, a device needs
    about t * l / d seconds more. So the device goes first whose share d / (d + l) is the smallest; among
    equal ones, that which was served least recently. (The authors' program sorts by the time of each device's
    last forward and backward pass.) Each half gets its own micro-batches in order, so that results do not
    depend on the order between devices.

    Args:
        num_devices: K.
        open_thread: opens a pool that runs one call at a time, by a name.
    """

    def __init__(self, num_devices: int, open_thread: OpenThread) -> None:
        super().__init__(num_devices, open_thread)
        self._iterations = [0] * num_devices  # done in this round
        self._served = [0] * num_devices  # when each was served last, in calls of all devices
        self._count = 0

    def _begin_round(self, index: int, iteration: int, rests: bool) -> None:
        super()._begin_round(index, iteration, rests)
        self._iterations[index] = 0

    def _next(self) -> int | None:
        there = (index for index in range(len(self._done)) if self._is_there(index))
        return min(there, key=lambda index: (self._share(index), self._served[index]), default=None)

    def _ran(self, index: int, ends: bool) -> None:
        self._count += 1
        self._served[index] = self._count
        self._iterations[index] += ends

    def _share(self, index: int) -> float:
        """Share of what the epoch had left for a device when the round began that it has done."""
        return self._iterations[index] / max(1, self._lengths[index] - self._iteration)
