"""Both halves of every device, put in place for a job and removed at its end."""

import copy
import logging
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
from pipar_rpc.coordination.membership import ask
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
from pipar_rpc.transport.closing import close_all
from pipar_rpc.transport.remote_object import create_remote
from pipar_rpc.transport.server_order import open_order
from pipar_rpc.transport.server_port import Port

log = logging.getLogger(__name__)


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
        halves = _server_halves(devices, node, network, strategy.shared_half, states)
        handles = []
        for index, device in enumerate(devices):
            half, timeline = halves[index]
            stop, rng = Stop(), generator(device.seed, "downlink", device.rank)
            downlink = device.downlink.open(rng, stop.sleep)
            port = Port(device.name, half.process, downlink, timeline, order.lane(index), stop)
            stack.callback(port.close)
            layers = device_layers(network, device.split_point, device.tail_units)
            handles.append(_place(device, layers, states[index], port, half, timeline))
        try:
            _load_data(handles, devices, node)
            order.begin([handle.iterations for handle in handles], iteration)
            calibrate(handles, devices)
            yield handles
        finally:
            _remove(handles)


def _server_halves(
    devices: Sequence[DeviceJob],
    node: Node,
    network: nn.Sequential,
    shared: bool,
    beginnings: Sequence[tuple[State, State]],
) -> list[tuple[ServerHalf, Timeline]]:
    """Creates a server half for each device; if they are `shared`, on the same layers."""
    halves: list[tuple[ServerHalf, Timeline]] = []
    layers = nn.Sequential()
    for device, (state, optimizer_state) in zip(devices, beginnings, strict=True):
        timeline = Timeline()
        if shared and halves:
            dropout = DropoutStreams(layers, device.seed, device.rank)
            gradients = server_gradients(device, layers)
            half = halves[0][0].for_device(dropout, coding_of(device), timeline, gradients)
        else:
            layers = server_layers(network, device.split_point, device.tail_units)
            layers = fill(copy.deepcopy(layers), state)
            half = build_server_half(layers, device, node, timeline, optimizer_state)
        halves.append((half, timeline))
    return halves


def _place(
    device: DeviceJob,
    layers: nn.Sequential,
    beginning: tuple[State, State],
    port: Port,
    half: ServerHalf,
    timeline: Timeline,
) -> DeviceHandle:
    """Places the device half: `layers`, with the weights and the optimiser's state of their beginning."""
    state = {name: beginning[0][name].clone() for name in layers.state_dict()}
    optimizer_state = of_parameters(beginning[1], dict(layers.named_parameters()))
    remote = create_remote(device.name, build_device, device, state, optimizer_state, port.reference())
    deadlines = Deadlines(device.deadlines, device.emulated_s)
    return DeviceHandle(device.name, remote, port, half, timeline, deadlines, links_timed(device))


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
    for name, error in close_all({handle.remote: handle.deadlines for handle in handles}):
        log.warning("%s could not be cleaned up: %s", name, error)
