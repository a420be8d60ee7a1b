"""One server half for all devices, which train it in turn."""

from collections.abc import Callable, Sequence
from typing import Protocol

from pipar_rpc.worker import InOrder


class Order(Protocol):
    """Runs numbered calls one after the other; see `InOrder`."""

    def submit(self, number: int, call: Callable[[], None]) -> None:
        """Queues `call` to run after those with smaller numbers."""

    def settle(self, timeout_s: float) -> None:
        """Waits until the calls that could run have run; raises TimeoutError."""


class Rotation:
    """Merges the numbered calls of several devices, one for each iteration, into one fixed order.

    That order is iteration 1 of every device, then iteration 2 of every device, and so on; devices that have
    done their last iteration of an epoch are passed over. So the result does not depend on who is faster.

    Args:
        in_order: runs the calls.
        num_devices: K.

    Attributes:
        lengths: iterations of each device in an epoch; to be set before the first call.
    """

    def __init__(self, in_order: InOrder, num_devices: int) -> None:
        self._in_order = in_order
        self.lengths: Sequence[int] = [1] * num_devices

    def lane(self, index: int) -> Order:
        """Where device `index` (from 0) puts its calls, numbered 0, 1, 2, ... through all epochs."""
        return _Lane(self, index)

    def submit(self, index: int, number: int, call: Callable[[], None]) -> None:
        """Queues call `number` of device `index`."""
        epoch, iteration = divmod(number, self.lengths[index])
        earlier = sum(min(length, iteration) for length in self.lengths)
        same = sum(length > iteration for length in self.lengths[:index])
        self._in_order.submit(epoch * sum(self.lengths) + earlier + same, call)

    def settle(self, timeout_s: float) -> None:
        """As `InOrder.settle`, for the calls of all devices."""
        self._in_order.settle(timeout_s)


class _Lane:
    def __init__(self, rotation: Rotation, index: int) -> None:
        self._rotation, self._index = rotation, index

    def submit(self, number: int, call: Callable[[], None]) -> None:
        self._rotation.submit(self._index, number, call)

    def settle(self, timeout_s: float) -> None:
        self._rotation.settle(timeout_s)
