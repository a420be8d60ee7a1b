"""Both halves of every device, put in place for a job and removed at its end."""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from pipar_rpc.actor import place
from pipar_rpc.checkpoint import Checkpoint
from pipar_rpc.closing import close_all
from pipar_rpc.data import overlapping
from pipar_rpc.device_plan import check_samples
from pipar_rpc.errors import ConfigError
from pipar_rpc.fedavg import State
from pipar_rpc.models import DropoutStreams
from pipar_rpc.node import Node
from pipar_rpc.patience import Patience
from pipar_rpc.peer import Peer
from pipar_rpc.placement import DeviceJob, build_device, build_server_half, fill, links_timed
from pipar_rpc.port import Port
from pipar_rpc.rotation import Rotation
from pipar_rpc.seeds import generator
from pipar_rpc.server import ServerHalf
from pipar_rpc.stopping import Stop
from pipar_rpc.strategies import Strategy
from pipar_rpc.testbed import calibrate
from pipar_rpc.timeline import Timeline
from pipar_rpc.worker import open_pool

log = logging.getLogger(__name__)


@contextmanager
def deployed(
    devices: Sequence[DeviceJob],
    node: Node,
    network: nn.Sequential,
    strategy: Strategy,
    checkpoint: Checkpoint | None = None,
) -> Iterator[list[Peer]]:
    """Both halves of every device, in place and with their data loaded; removed at the end.

    Args:
        devices: what each does.
        node: this machine.
        network: the uncut network with its first weights.
        strategy: whether the devices share one server half, and train it at the same time.
        checkpoint: from which the job goes on.

    Raises:
        UserError: a device cannot do its part, for a reason the user can mend.
        PeerError: a device failed or did not answer in time.
    """
    with ExitStack() as stack:
        rotation = None
        if strategy.shared_half and not strategy.in_turn:
            rotation = Rotation(stack.enter_context(open_pool("compute-shared")), len(devices))
        first: tuple[State, State] = network.state_dict(), {}
        own = [checkpoint.beginning(k) if checkpoint else first for k in range(len(devices))]
        halves = _server_halves(devices, node, network, strategy.shared_half, own)
        peers = []
        for index, device in enumerate(devices):
            half, timeline = halves[index]
            stop, rng = Stop(), generator(device.seed, "downlink", device.rank)
            downlink = device.downlink.open(rng, stop.sleep)
            order = rotation.lane(index) if rotation else None
            port = Port(device.name, half.process, downlink, timeline, order, stop)
            stack.callback(port.close)
            layers = network[: device.split_point]
            peers.append(_place(device, layers, own[index], port, half, timeline))
        try:
            _load_data(peers, devices, node)
            if rotation:
                rotation.lengths = [peer.iterations for peer in peers]
                rotation.iteration = checkpoint.iteration if checkpoint else 0
            calibrate(peers, devices)
            yield peers
        finally:
            _remove(peers)


def _server_halves(
    devices: Sequence[DeviceJob],
    node: Node,
    network: nn.Sequential,
    shared: bool,
    beginnings: Sequence[tuple[State, State]],
) -> list[tuple[ServerHalf, Timeline]]:
    """A server half for each device; if they are `shared`, on the same layers."""
    halves: list[tuple[ServerHalf, Timeline]] = []
    layers = nn.Sequential()
    for device, (state, momentum) in zip(devices, beginnings, strict=True):
        timeline = Timeline()
        if shared and halves:
            dropout = DropoutStreams(layers, device.seed, device.rank)
            half = halves[0][0].for_device(dropout, timeline)
        else:
            layers = fill(copy.deepcopy(network[device.split_point :]), state)
            half = build_server_half(layers, device, node, timeline, momentum)
        halves.append((half, timeline))
    return halves


def _place(
    device: DeviceJob,
    layers: nn.Sequential,
    beginning: tuple[State, State],
    port: Port,
    half: ServerHalf,
    timeline: Timeline,
) -> Peer:
    """The device half: `layers`, with the weights and momentum that they begin with."""
    state = {name: beginning[0][name].clone() for name in layers.state_dict()}
    momentum = {name: beginning[1][name] for name, _ in layers.named_parameters() if name in beginning[1]}
    remote = place(device.name, build_device, device, state, momentum, port.reference())
    patience = Patience(device.deadlines, device.emulated_s)
    return Peer(device.name, remote, port, half, timeline, patience, links_timed(device))


def _load_data(peers: Sequence[Peer], devices: Sequence[DeviceJob], node: Node) -> None:
    places = {}
    for peer, device in zip(peers, devices, strict=True):
        counts, places[peer.name] = peer.ask("holding")
        missing = len(device.data.classes) - len(counts)
        peer.class_counts = (*counts, *[0] * missing)
        check_samples(device, peer.num_samples)
        peer.iterations = -(-peer.num_samples // device.batch_size)
    if both := overlapping(places):
        each = "another folder for each device, none inside another's (partition=own)"
        raise ConfigError("node.data_root", node.given_root, f"{each}: {both[0]} and {both[1]} read the same")


def _remove(peers: Sequence[Peer]) -> None:
    for peer in peers:
        peer.port.stop("the job has ended")
    for name, error in close_all({peer.remote: peer.patience for peer in peers}):
        log.warning("%s could not be cleaned up: %s", name, error)
