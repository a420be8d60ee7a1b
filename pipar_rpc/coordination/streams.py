"""Networks on their way into the next global one: device halves are taken as they come, and are not kept.

Server halves stay where they are. A rule that takes the average gets it from sums (`takes_average`); one that
takes networks one by one gets each whole, in the order of the devices (`OneByOne`: `privacy.updates`). All
others, as the trimmed mean, need all networks at once.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from pipar_rpc.aggregation.rules import takes_average
from pipar_rpc.aggregation.streamed_average import StreamedAverage
from pipar_rpc.base.states import State, is_finite
from pipar_rpc.coordination.aggregation import Aggregator
from pipar_rpc.coordination.average_parts import PartOfAverage
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.far_half import FarHalf
from pipar_rpc.timing.timeline import NO_ITERATION, Stage, Timeline


class Stream(Protocol):
    """The networks of a round; nothing else changes until `finish`."""

    def add(self, number: int, state: State) -> None:
        """Takes the device half of one of the devices, by its number among them, from 0."""
        ...

    def is_finite(self) -> bool:
        """Whether no number of any of the networks is infinite or NaN, once all device halves are taken."""
        ...

    def finish(self) -> State:
        """Makes the next global network, once all device halves are taken."""
        ...


class Sum(Protocol):
    """What a rule keeps of networks that it has taken."""

    def add(self, network: State) -> None:
        """Takes a network, which is not changed."""
        ...

    def is_finite(self) -> bool:
        """Whether no number of any of them was infinite or NaN."""
        ...


@runtime_checkable
class OneByOne(Protocol):
    """A rule that takes the networks of a round one by one."""

    def begin(self, before: State) -> Sum:
        """Begins with a round whose devices began with the global network `before`."""
        ...

    def conclude(self, before: State, total: Sum) -> State:
        """Makes the next global network."""
        ...


def open_stream(
    aggregator: Aggregator, handles: Sequence[DeviceHandle], samples: Sequence[int], timeline: Timeline
) -> Stream | None:
    """Opens the stream for the networks of these devices; None if the rule needs all networks at once.

    Args:
        aggregator: maker of the global network.
        handles: devices, in the order of their numbers.
        samples: number of samples that each has processed since the last aggregation, not all of them zero.
        timeline: record of the spans of rank 0's computation; waiting for others is none.
    """
    if takes_average(aggregator.rule):
        return AverageStream(aggregator, handles, samples, timeline)
    if isinstance(aggregator.rule, OneByOne) and aggregator.network is not None:
        return OrderedStream(aggregator, aggregator.rule, aggregator.network, handles, timeline)
    return None


class AverageStream:
    """The average, of which the rule makes the next global network; arguments as of `open_stream`.

    Each server rank sums up the halves that it holds, while the device halves are still on their way.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        handles: Sequence[DeviceHandle],
        samples: Sequence[int],
        timeline: Timeline,
    ) -> None:
        self._aggregator, self._handles, self._timeline = aggregator, handles, timeline
        total = float(sum(samples))
        shares = [number / total for number in samples]
        self._average, self._pattern = StreamedAverage(shares), aggregator.network
        self._parts = _parts_of_others(handles, shares)
        here = {k: handle.half for k, handle in enumerate(handles) if not isinstance(handle.half, FarHalf)}
        with self._measured():
            states = {number: half.state() for number, half in here.items()}
            PartOfAverage.of(states, dict(enumerate(shares)), len(handles)).add_to(self._average)
        self._mean: State | None = None

    def add(self, number: int, state: State) -> None:
        """Adds a device half to the sums."""
        if self._pattern is None:
            self._pattern = state | self._handles[number].half.state()
        with self._measured():
            self._average.add(number, state)

    def is_finite(self) -> bool:
        """Whether the average is finite: it is not if a term is not, whatever its weight."""
        return is_finite(self._joined())

    def finish(self) -> State:
        """Has the rule make the next global network of the average."""
        return self._aggregator.aggregate([self._joined()], [1], self._timeline)

    def _joined(self) -> State:
        """The average of all networks."""
        if self._mean is None:
            assert self._pattern is not None, "no device half was taken"
            parts = [part() for part in self._parts]
            with self._measured():
                for part in parts:
                    part.add_to(self._average)
                self._mean = self._average.result(self._pattern)
        return self._mean

    def _measured(self) -> AbstractContextManager[None]:
        return self._timeline.measure(Stage.AGGREGATE, NO_ITERATION)


def _parts_of_others(
    handles: Sequence[DeviceHandle], shares: Sequence[float]
) -> list[Callable[[], PartOfAverage]]:
    """Has the other server ranks sum up their halves; returns functions that wait for it."""
    own: dict[str, dict[str, tuple[int, float]]] = {}
    askable: dict[str, FarHalf] = {}
    for number, (handle, share) in enumerate(zip(handles, shares, strict=True)):
        if isinstance(handle.half, FarHalf):
            own.setdefault(handle.server, {})[handle.name] = number, share
            askable.setdefault(handle.server, handle.half)
    return [askable[server].part_of_average(its, len(handles)) for server, its in own.items()]


class OrderedStream:
    """A rule takes the networks in the order of the devices' numbers; a half that comes early waits.

    Args:
        aggregator: maker of the global network.
        rule: its rule.
        before: global network with which the devices began.
        handles: devices, in the order of their numbers.
        timeline: record of the spans of the computation.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        rule: OneByOne,
        before: State,
        handles: Sequence[DeviceHandle],
        timeline: Timeline,
    ) -> None:
        self._aggregator, self._rule, self._before, self._timeline = aggregator, rule, before, timeline
        self._handles, self._sum = handles, rule.begin(before)
        self._early: dict[int, State] = {}
        self._next = 0

    def add(self, number: int, state: State) -> None:
        """Has the rule take the networks whose turn it is."""
        self._early[number] = state
        while self._next in self._early:
            network = self._early.pop(self._next) | self._handles[self._next].half.state()
            with self._timeline.measure(Stage.AGGREGATE, NO_ITERATION):
                self._sum.add(network)
            self._next += 1

    def is_finite(self) -> bool:
        """Whether all networks were finite."""
        return self._sum.is_finite()

    def finish(self) -> State:
        """Has the rule make the next global network."""
        with self._timeline.measure(Stage.AGGREGATE, NO_ITERATION):
            self._aggregator.network = self._rule.conclude(self._before, self._sum)
        return self._aggregator.network
