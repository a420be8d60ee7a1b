"""Server halves that other server ranks hold, as rank 0 places and uses them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar, cast

from torch import nn

from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.ranks import SERVER
from pipar_rpc.base.states import State
from pipar_rpc.coordination.average_parts import PartOfAverage
from pipar_rpc.coordination.far_end import FarEnd
from pipar_rpc.coordination.far_port import FarPort
from pipar_rpc.coordination.held_half import HeldHalf, hold_half
from pipar_rpc.learning.optimizer_state import of_parameters
from pipar_rpc.models import server_layers
from pipar_rpc.plan.deadlines import Deadlines
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.privacy.gradients import Clipped
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.server_half import ServerHalf
from pipar_rpc.transport.closing import close_all, warn_of
from pipar_rpc.transport.remote_object import create_remote, name_of
from pipar_rpc.transport.workers import Place

CALLS_AT_ONCE = 16  # to the halves of one server rank

P = ParamSpec("P")
T = TypeVar("T")


class FarHalf:
    """A device's server half on another server rank; methods as those of `ServerHalf` that rank 0 calls.

    Args:
        end: way to the other rank.
        port: port of the device.
        names: names of its parameters and buffers.
    """

    def __init__(self, end: FarEnd, port: FarPort, names: Collection[str]) -> None:
        self._end, self._port, self._names = end, port, names

    def state(self) -> State:
        """Returns a copy of parameters and buffers."""
        return self._ask(ServerHalf.state)

    def is_finite(self) -> bool:
        """Whether no number of parameters and buffers is infinite or NaN."""
        return self._end.ask(HeldHalf.is_finite)

    def part_of_average(
        self, shares: Mapping[str, tuple[int, float]], count: int
    ) -> Callable[[], PartOfAverage]:
        """Has the server rank of this half sum up its halves; see `HeldHalf.part_of_average`.

        Returns:
            Function that waits for the result.
        """
        return self._end.begin(HeldHalf.part_of_average, shares, count)

    def names(self) -> Collection[str]:
        """Returns the names of parameters and buffers."""
        return self._names

    def load(self, state: State) -> None:
        """Replaces parameters and buffers before anything else is done with the half; returns at once."""
        self._end.tell(HeldHalf.of_half, name_of(ServerHalf.load), state)

    def optimizer_state(self) -> State:
        """Returns a copy of the optimiser's state."""
        return self._ask(ServerHalf.optimizer_state)

    def snapshot(self) -> tuple[State, State]:
        """Copies the layers' and the optimiser's state."""
        return self._ask(ServerHalf.snapshot)

    def restore(self, snapshot: tuple[State, State]) -> None:
        """Forgets what was trained since `snapshot`."""
        self._ask(ServerHalf.restore, snapshot)

    def clipped(self) -> Clipped:
        """Returns how many gradients of single samples were clipped since the last call."""
        return self._port.clipped()

    def rest(self) -> None:
        """Gives the layers up until `recut`; returns at once."""
        self._end.tell(HeldHalf.of_half, name_of(ServerHalf.rest))

    def recut(self, job: DeviceJob, state: State, optimizer_state: State) -> None:
        """Gives the half other layers, which hold `state`; see `HeldHalf.recut`."""
        self._end.ask(HeldHalf.recut, job, state, optimizer_state)
        self._names = list(state)

    def _ask(self, method: Callable[Concatenate[ServerHalf, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return cast(T, self._end.ask(HeldHalf.of_half, name_of(method), *args))


@contextmanager
def far_halves(
    devices: Sequence[DeviceJob], network: nn.Sequential, beginnings: Sequence[tuple[State, State]]
) -> Iterator[dict[str, tuple[FarPort, FarHalf, Timeline]]]:
    """Has the other server ranks hold their halves; yields these by the devices' names, and has them closed.

    Args:
        devices: jobs of the devices.
        network: the uncut network, as a pattern.
        beginnings: weights of each device's whole network and state of its optimisers.

    Raises:
        PeerError: a server rank is lost.
        UserError: a half cannot be built there, for a reason that the user can mend.
    """
    ends: dict[str, tuple[FarEnd, DeviceJob, list[str]]] = {}
    deadlines: dict[str, Deadlines] = {}  # of each rank: its halves share a line
    try:
        for device, (state, optimizer_state) in zip(devices, beginnings, strict=True):
            if device.server == SERVER:
                continue
            layers = server_layers(network, device.split_point, device.tail_units)
            own: State = {}
            if not device.rests:
                own = {name: state[name].clone() for name in layers.state_dict()}
            kept = of_parameters(optimizer_state, dict(layers.named_parameters()))
            place = Place(device.server, device.server, CALLS_AT_ONCE)
            remote = create_remote(place, hold_half, device, own, kept)
            limits = deadlines.setdefault(device.server, Deadlines(device.deadlines))
            ends[device.name] = FarEnd(remote, limits), device, list(layers.state_dict())
        yield {name: _use(*end) for name, end in ends.items()}
    finally:
        warn_of(close_all({end.remote: end.deadlines for end, *_ in ends.values()}))


def _use(end: FarEnd, device: DeviceJob, names: Collection[str]) -> tuple[FarPort, FarHalf, Timeline]:
    models = device.downlink.open(generator(device.seed, "downlink", device.rank))
    timeline = Timeline()
    port = FarPort(device.name, end, models, timeline)
    return port, FarHalf(end, port, names), timeline
