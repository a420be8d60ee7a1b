"""One device, as the server sees it."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from pipar_rpc.actor import Remote
from pipar_rpc.port import Port
from pipar_rpc.server import ServerHalf
from pipar_rpc.timeline import Timeline

T = TypeVar("T")


@dataclass
class Peer:
    """One device, as the server sees it.

    Attributes:
        name: for errors and displays.
        remote: the device half and its data, on the device.
        port: where the device's micro-batches arrive.
        half: the device's server half.
        timeline: spans of this server half and of the downlink.
        timeout_s: longest silence, emulated transfers included.
        links_timed: whether the links are emulated (or unused), so that their times are known.
        class_counts: samples of each class that the device trains on.
        iterations: iterations per epoch.
    """

    name: str
    remote: Remote
    port: Port
    half: ServerHalf
    timeline: Timeline
    timeout_s: float
    links_timed: bool
    class_counts: tuple[int, ...] = ()
    iterations: int = 0

    def wait(self, future: Future[T], to_do: str) -> T:
        """The result of a call on the device; raises PeerError if it does not come in time."""
        return self.remote.wait(future, self.timeout_s, to_do)

    @property
    def num_samples(self) -> int:
        """Samples that the device trains on."""
        return sum(self.class_counts)
