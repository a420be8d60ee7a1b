"""Both halves of every device, put in place for a job and removed at its end."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.states import State
from pipar_rpc.base.stopping import Stop
from pipar_rpc.coordination.build import (
    build_device,
    build_server_half,
    coding_of,
    fill,
    server_gradients,
)
from pipar_rpc.coordination.calibration import calibrate
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.far_half import FarHalf, far_halves
from pipar_rpc.coordination.far_port import FarPort
from pipar_rpc.coordination.membership import ask
from pipar_rpc.coordination.moving_layers import recut_half
from pipar_rpc.data import overlapping
from pipar_rpc.learning.optimizer_state import of_parameters
from pipar_rpc.models import DropoutStreams, device_layers, server_layers
from pipar_rpc.plan.deadlines import Deadlines
from pipar_rpc.plan.device_job import DeviceJob, links_timed
from pipar_rpc.plan.device_plan import check_samples
from pipar_rpc.plan.node import Node
from pipar_rpc.plan.strategies import Strategy
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.server_half import ServerHalf
from pipar_rpc.transport.closing import close_all, warn_of
from pipar_rpc.transport.remote_object import create_remote
from pipar_rpc.transport.server_order import Lane, open_order
from pipar_rpc.transport.server_port import Port
from pipar_rpc.transport.workers import Place

End = tuple[Port | FarPort, ServerHalf | FarHalf, Timeline]  # of a device, as rank 0 uses it


@contextmanager
def deployed(
    devices: Sequence[DeviceJob],
    node: Node,
    network: nn.Sequential,
    strategy: Strategy,
    beginnings: Sequence[tuple[State, State]] | None = None,
    iteration: int = 0,
) -> Iterator[list[DeviceHandle]]:
    """Puts both halves of every device in place and has their data loaded; removes them at the end.

    Args:
        devices: jobs of the devices.
        node: this machine.
        network: the uncut network with its first weights.
        strategy: strategy, which says whether the devices share one server half and train at the same time.
        beginnings: weights of each device's whole network and state of its optimisers; None for the weights
            of `network`.
        iteration: iteration of an epoch at which training begins, from 0.

    Raises:
        UserError: a device cannot do its part, for a reason that the user can mend.
        PeerError: a device failed or did not answer in time.
    """
    with ExitStack() as stack:
        order = stack.enter_context(open_order(strategy.server_order, len(devices)))
        first: tuple[State, State] = network.state_dict(), {}
        states = beginnings or [first] * len(devices)
        ends: dict[str, End] = dict(stack.enter_context(far_halves(devices, network, states)))
        halves = _server_halves(
            [(device, own) for device, own in zip(devices, states, strict=True) if device.name not in ends],
            *(node, network, strategy.shared_half),
        )
        for index, device in enumerate(devices):
            if device.name in halves:
                ends[device.name] = _open_port(device, *halves[device.name], order.lane(index), stack)
        handles = [
            _place(device, network, own, ends[device.name])
            for device, own in zip(devices, states, strict=True)
        ]
        try:
            _load_data(handles, devices, node)
            order.begin([handle.iterations for handle in handles], iteration)
            calibrate(handles, devices)
            yield handles
        finally:
            _remove(handles)


def _server_halves(
    devices: Sequence[tuple[DeviceJob, tuple[State, State]]],
    node: Node,
    network: nn.Sequential,
    shared: bool,
) -> dict[str, tuple[ServerHalf, Timeline]]:
    """Creates the server half of each of these devices here; if they are `shared`, on the same layers."""
    halves: dict[str, tuple[ServerHalf, Timeline]] = {}
    layers = nn.Sequential()
    for device, (state, optimizer_state) in devices:
        timeline = Timeline()
        if shared and halves:
            dropout = DropoutStreams(layers, device.seed, device.rank)
            gradients = server_gradients(device, layers)
            first, _ = next(iter(halves.values()))
            half = first.for_device(dropout, coding_of(device), timeline, gradients)
        else:
            layers = server_layers(network, device.split_point, device.tail_units)
            layers = fill(copy.deepcopy(layers), state)
            half = build_server_half(layers, device, node, timeline, optimizer_state)
            if device.rests:
                half.rest()
        halves[device.name] = half, timeline
    return halves


def _open_port(device: DeviceJob, half: ServerHalf, timeline: Timeline, lane: Lane, stack: ExitStack) -> End:
    """Opens the port of a server half that is here; `stack` closes it."""
    stop, rng = Stop(), generator(device.seed, "downlink", device.rank)
    port = Port(device.name, half.process, device.downlink.open(rng, stop.sleep), timeline, lane, stop)
    stack.callback(port.close)
    return port, half, timeline


def _place(
    device: DeviceJob, network: nn.Sequential, beginning: tuple[State, State], end: End
) -> DeviceHandle:
    """Places the device half of `network`, with the weights and the optimiser's state of its beginning."""
    layers = device_layers(network, device.split_point, device.tail_units)
    state: State = {}
    if not device.rests:  # one that rests is given a network when it is to train
        state = {name: beginning[0][name].clone() for name in layers.state_dict()}
    optimizer_state = of_parameters(beginning[1], dict(layers.named_parameters()))
    reference = end[0].reference()
    place = Place.on_rank(device.name, device.placed.rank, device.placed.at_once)
    remote = create_remote(place, build_device, device, state, optimizer_state, reference)
    deadlines = Deadlines(device.deadlines, device.emulated_s)
    handle = DeviceHandle(*(device.name, remote, *end, deadlines, links_timed(device)), server=device.server)
    if device.rests:
        handle.rests = True
        handle.revive = lambda state: recut_half(handle.half, device, network, state, {})
    return handle


def _load_data(handles: Sequence[DeviceHandle], devices: Sequence[DeviceJob], node: Node) -> None:
    roots = {}
    for handle, device in zip(handles, devices, strict=True):
        counts, roots[handle.name] = ask(handle, Device.data_summary)
        missing = len(device.told_classes) - len(counts)
        handle.class_counts = (*counts, *[0] * missing)
        check_samples(device, handle.num_samples)
        handle.iterations = -(-handle.num_samples // device.batch_size)
    if both := overlapping(roots):
        each = "another folder for each device, none inside another's (partition=own)"
        raise ConfigError("node.data_root", node.given_root, f"{each}: {both[0]} and {both[1]} read the same")


def _remove(handles: Sequence[DeviceHandle]) -> None:
    for handle in handles:
        handle.port.stop("the job has ended")
    warn_of(close_all({handle.remote: handle.deadlines for handle in handles}))
