"""One device, as the server sees it."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, TypeVar, cast

from pipar_rpc.base.ranks import SERVER
from pipar_rpc.base.states import State, num_bytes
from pipar_rpc.coordination.far_half import FarHalf
from pipar_rpc.coordination.far_port import FarPort
from pipar_rpc.plan.deadlines import Deadlines
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.timing.traffic import ENOUGH_S
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.server_half import ServerHalf
from pipar_rpc.transport.remote_object import Remote, name_of
from pipar_rpc.transport.server_port import Port

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[..., object]  # of `Device`

MODELS: tuple[Method, ...] = (Device.upload, Device.load)  # methods that move models
# What is answered at once with a short message: one answer tells how long to wait for any of them.
QUESTIONS: tuple[Method, ...] = (
    Device.clock,
    Device.start_clock,
    Device.record,
    Device.drain_traffic,
    Device.uplink_mbps,
)
KINDS = dict.fromkeys(map(name_of, QUESTIONS), "a question")


@dataclass(eq=False)
class DeviceHandle:
    """One device, as the server sees it.

    Attributes:
        name: name of the device, for errors and displays.
        remote: reference to the device half and its data, on the device.
        port: port at which the device's micro-batches arrive, on this rank or another server rank.
        half: server half of the device, where its port is.
        timeline: record of the spans of this server half and of the downlink.
        deadlines: deadlines of waiting for the device.
        links_timed: whether the links are emulated (or unused), so that their times are known.
        class_counts: number of samples of each class that the device trains on.
        iterations: number of iterations per epoch.
        holds: network that the device was given last; None if the server does not know it.
        downloaded_bytes: bytes of models that it was sent.
        saved_bytes: bytes that the codec of models saved, both ways.
        left: whether the device has left the job; see `pipar_rpc.coordination.membership`.
        server: RPC name of the server rank that holds port and half.
        has_state: whether its optimisers may have a state: it has trained, or goes on from a checkpoint.
        revive: function that gives a server half that rests its layers, with the weights of a whole network;
            None if the device's network is kept also while it sits rounds out.
        rests: whether its network is put away; see `pipar_rpc.coordination.resting`.
        moved: bytes and seconds of the last model that went up (`Device.upload`), and down (`Device.load`).
    """

    name: str
    remote: Remote[Device]
    port: Port | FarPort
    half: ServerHalf | FarHalf
    timeline: Timeline
    deadlines: Deadlines
    links_timed: bool
    class_counts: tuple[int, ...] = ()
    iterations: int = 0
    holds: State | None = None
    downloaded_bytes: int = 0
    saved_bytes: int = 0
    left: bool = False
    server: str = SERVER
    has_state: bool = False
    revive: Callable[[State], None] | None = None
    rests: bool = False
    moved: dict[Method, tuple[int, float]] = field(default_factory=dict)
    _last_reply: float = 0.0

    @property
    def present(self) -> bool:
        """Whether the device takes part in the job: it has not left, and its process is not lost."""
        return not (self.left or self.remote.lost)

    def expect(self, emulated_s: float, links_timed: bool) -> None:
        """Forgets what was measured, as the device is about to do other work."""
        self.deadlines = Deadlines(self.deadlines.spec, emulated_s)
        self.port.slowest_s, self.links_timed = None, links_timed

    def call(
        self, method: Callable[Concatenate[Device, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Has a method of the device run after those called before; returns at once. See `Remote.call`."""
        asked = time.monotonic()

        def note(answer: Future[T]) -> None:
            began, self._last_reply = max(asked, self._last_reply), time.monotonic()
            if answer.exception() is None:
                self.deadlines.note(_kind(method), self._last_reply - began)
                if method in MODELS:
                    model = cast(State, args[0] if method is Device.load else answer.result())
                    self.moved[method] = (num_bytes(model), self._last_reply - began)
                self.port.heard()

        answer = self.remote.call(method, *args, **kwargs)
        answer.add_done_callback(note)
        return answer

    def limit_s(self, method: Method) -> float:
        """Returns the longest silence, in seconds, that the device is allowed while it does `method`.

        `Device.train` is the one method in which a device gives signs of life before it has ended.
        """
        slowest_s = self.port.slowest_s if method is Device.train else None
        return self.deadlines.limit_s(_kind(method), slowest_s)

    def model_mbps(self, method: Method, answer_s: float = 0.0) -> float | None:
        """Returns the Mbit/s at which the last model moved; None if none did since the last call, or at once.

        Args:
            method: `Device.upload` or `Device.load`.
            answer_s: seconds that an empty message would have taken, which do not count.
        """
        size, seconds = self.moved.pop(method, (0, 0.0))
        return size * 8e-6 / (seconds - answer_s) if seconds - answer_s >= ENOUGH_S else None

    def device_names(self, network: State) -> list[str]:
        """Returns the names of the device half's tensors, in the network's order."""
        on_server = set(self.half.names())
        return [name for name in network if name not in on_server]

    def wakes_with(self, network: State) -> bool:
        """Gives the server half of a device that rests this network; returns whether the device rested.

        The device half then wants it too.
        """
        rested, self.rests = self.rests, False
        if rested:
            assert self.revive is not None
            self.revive(network)
        return rested

    @property
    def num_samples(self) -> int:
        """Number of samples that the device trains on."""
        return sum(self.class_counts)


def _kind(method: Method) -> str:
    """What times are measured for, and deadlines rest on, together."""
    name = name_of(method)
    return KINDS.get(name, name)
