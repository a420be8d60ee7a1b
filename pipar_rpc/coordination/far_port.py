"""A device's port as rank 0 uses it where another server rank holds it.

`FarPort` and `FarLink` have the methods of `Port` and `Link` that rank 0 calls, so that nobody else needs to
know where a port is.
"""

import time
from collections import deque
from concurrent.futures import Future

from pipar_rpc.coordination.far_end import FarEnd
from pipar_rpc.coordination.held_half import HeldHalf, Seen, Settled, look
from pipar_rpc.privacy.gradients import NOTHING, Clipped
from pipar_rpc.testbed.link import Link, Slot
from pipar_rpc.timing.timeline import Timeline, unpack
from pipar_rpc.timing.traffic import PINGS, NotedMessage, Ping, Traffic
from pipar_rpc.transport.port_reference import PortReference
from pipar_rpc.transport.remote_object import name_of, request
from pipar_rpc.transport.server_port import Port

LOOK_S = 0.5  # time between two looks at a port while its device trains
RECENT = 16  # number of looks of which the fastest tells the clocks' difference


class FarLink:
    """A device's emulated downlink: gradients leave from another server rank, and models from this one.

    They never leave at the same time, so each has a queue of its own.

    Args:
        end: way to the other rank.
        models: the downlink as it is used here.

    Attributes:
        sent_bytes: bytes that the other rank has sent.
    """

    def __init__(self, end: FarEnd, models: Link) -> None:
        self._end, self._models, self.sent_bytes = end, models, 0
        self._not_drained: tuple[list[float], list[float]] = ([], [])

    @property
    def num_bytes(self) -> int:
        """Bytes of all messages, until the end of the last round."""
        return self._models.num_bytes + self.sent_bytes

    def start(self, elapsed_s: float = 0.0) -> None:
        """Makes now the time `elapsed_s` of the trace, on both ranks."""
        self._models.start(elapsed_s)
        self._end.ask(HeldHalf.of_downlink, name_of(Link.start), elapsed_s)

    def reserve(self, num_bytes: int) -> Slot:
        """Queues a model."""
        return self._models.reserve(num_bytes)

    def wait(self, slot: Slot) -> None:
        """Sleeps until a model has arrived."""
        self._models.wait(slot)

    def recent_mbps(self) -> float | None:
        """Mbit/s at which the last model was carried; None if there was none, or without a limit."""
        return self._models.recent_mbps()

    def drain_traffic(self) -> list[float]:
        """Bytes carried in each interval that has ended on both ranks; see `Link.drain_traffic`."""
        models, gradients = self._not_drained
        models += self._models.drain_traffic()
        gradients += self._end.ask(HeldHalf.of_downlink, name_of(Link.drain_traffic))
        ended = min(len(models), len(gradients))
        self._not_drained = models[ended:], gradients[ended:]
        return [sum(both) for both in zip(models[:ended], gradients[:ended], strict=True)]


class FarPort:
    """A device's port on another server rank; methods as those of `Port`, unless they say more.

    Args:
        name: name of the device.
        end: way to the other rank.
        models: the emulated downlink as models use it.
        timeline: record that receives the spans of the server half and the downlink, by this clock.
    """

    def __init__(self, name: str, end: FarEnd, models: Link, timeline: Timeline) -> None:
        self.name, self.downlink = name, FarLink(end, models)
        self._end, self._timeline, self._clipped = end, timeline, NOTHING
        self._reference, self._heard = end.ask(HeldHalf.reference), time.monotonic()
        self._pings: deque[Ping] = deque(maxlen=RECENT)
        self._looking, self._seen_at = False, self._heard
        self._seen = Seen(0.0, 0.0, 0, float("nan"), None)
        for _ in range(1 + PINGS):
            end.result_of(self._look())

    def reference(self) -> PortReference:
        """The reference with which the device addresses its port."""
        return self._reference

    def begin_round(self, iteration: int, rests: bool) -> None:
        """Waits until the half holds what it was given; there is no other device that it shares."""
        self._end.flush()

    def listen(self) -> None:
        """Begins to expect signs of life."""
        self.heard()
        self._end.tell(HeldHalf.of_port, name_of(Port.listen))

    def heard(self) -> None:
        """Notes a sign of life that came to this rank."""
        self._heard = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the device's last sign of life to either rank, when the other was last looked at."""
        return min(time.monotonic() - self._heard, self._seen.silent_s)

    @property
    def iteration(self) -> int:
        """Number of iterations of the epoch that the device has reported as done."""
        return self._seen.iteration

    @iteration.setter
    def iteration(self, number: int) -> None:
        self._end.ask(HeldHalf.set_of_port, "iteration", number)
        self._seen = self._seen._replace(iteration=number)

    @property
    def loss(self) -> float:
        """Mean loss of the last of them."""
        return self._seen.loss

    @property
    def slowest_s(self) -> float | None:
        """Longest time of an iteration so far, in seconds; None before the first one."""
        return self._seen.slowest_s

    @slowest_s.setter
    def slowest_s(self, seconds: float | None) -> None:
        self._end.ask(HeldHalf.set_of_port, "slowest_s", seconds)
        self._seen = self._seen._replace(slowest_s=seconds)

    @property
    def traffic(self) -> Traffic:
        """The messages that passed since the last time, by this clock; empty the second time."""
        own, passed = Traffic(), self._end.ask(HeldHalf.messages)
        for log, messages in zip((own.up, own.down), passed, strict=True):
            for number, size, time_s in messages:
                log.add(NotedMessage(number, size, time_s - self._clock_offset_s))
        return own

    def check(self) -> None:
        """Raises the first error of the server half, or that its rank is lost."""
        if error := self._end.ask(HeldHalf.error):
            raise error

    def settle(self) -> None:
        """Waits until all has been computed, and takes over what is to be known of the round."""
        settled: Settled = self._end.ask(HeldHalf.settle)
        for span in unpack(settled.spans, self._clock_offset_s):
            self._timeline.add(span)
        self._clipped, self._seen = settled.clipped, settled.seen
        self.downlink.sent_bytes = settled.sent_bytes
        if settled.error:
            raise settled.error

    def become_idle(self) -> None:
        """Waits until nothing is being computed."""
        self._end.ask(HeldHalf.of_port, name_of(Port.become_idle))

    def remind(self) -> None:
        """Looks at the port now and then; raises PeerError if its rank is lost."""
        self._end.check_alive()
        if not self._looking and time.monotonic() - self._seen_at > LOOK_S:
            self._look()

    def stop(self, reason: str) -> None:
        """Refuses all that has not been answered yet."""
        self._end.tell(HeldHalf.of_port, name_of(Port.stop), reason)

    def leave(self, reason: str) -> None:
        """Stops for good."""
        self._end.tell(HeldHalf.of_port, name_of(Port.leave), reason)

    def clipped(self) -> Clipped:
        """Hands over how many gradients were clipped in the round that was settled last."""
        clipped, self._clipped = self._clipped, NOTHING
        return clipped

    @property
    def _clock_offset_s(self) -> float:
        return min(list(self._pings)).clock_offset_s

    def _look(self) -> Future[Seen | None]:
        asked, self._looking, self._seen_at = time.monotonic(), True, time.monotonic()

        def note(answer: Future[Seen | None]) -> None:
            if answer.exception() is None and (seen := answer.result()) is not None:
                self._seen, self._seen_at = seen, time.monotonic()
                self._pings.append(Ping.of(asked, self._seen.clock, self._seen_at))
            self._looking = False

        timeout_s = self._end.deadlines.unanswered_s
        answer = request(self._end.remote.name, look, (self.name,), timeout_s)
        answer.add_done_callback(note)
        return answer
