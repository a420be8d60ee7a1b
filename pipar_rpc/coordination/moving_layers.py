"""Layers that move between device and server when a device's split point changes between rounds.

After an aggregation all halves hold the average, so the server knows all weights. A layer that goes down to
a device takes its weights and its optimiser's state with it; one that goes up, only that state. Nothing is
lost:
training goes on as if the network had been cut there from the beginning.
"""

import copy
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from torch import nn

from pipar_rpc.base.states import State, num_bytes
from pipar_rpc.coordination.build import fill, recut_server_half
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.far_half import FarHalf
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.model_transfer import reserve_download
from pipar_rpc.learning.optimizer_state import of_parameters
from pipar_rpc.models import device_layers, server_layers
from pipar_rpc.plan.device_job import DeviceJob, links_timed
from pipar_rpc.testbed.link import Slot
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.server_half import ServerHalf


def move_layers(
    membership: Membership,
    network: nn.Sequential,
    old: Sequence[DeviceJob],
    new: Sequence[DeviceJob],
    state: State,
) -> dict[DeviceHandle, int]:
    """Gives devices and server halves the layers that `new` says; all links work at the same time.

    Args:
        membership: devices that take part.
        network: the uncut network, as a pattern.
        old: jobs of the devices until now.
        new: jobs of the devices from now on.
        state: average of the networks, which all halves hold.

    Returns:
        Bytes that each device sent for the change.
    """
    jobs = dict(zip(membership.everyone, new, strict=True))
    leaving: list[tuple[Slot, DeviceHandle, State, State]] = []
    for handle, before in zip(membership.everyone, old, strict=True):
        if before == jobs[handle] or not handle.present:
            continue
        now, then = (set(_device_names(network, job)) for job in (jobs[handle], before))
        names = now - then
        added = {name: own for name, own in state.items() if name in names}
        optimizer_state = of_parameters(handle.half.optimizer_state(), names)
        slot = reserve_download(handle, added, optimizer_state)
        leaving.append((slot, handle, added, optimizer_state))
    asked: dict[DeviceHandle, Future[State]] = {}
    for slot, handle, added, optimizer_state in sorted(leaving, key=lambda item: item[0].arrival):
        handle.port.downlink.wait(slot)
        handle.expect(jobs[handle].emulated_s, links_timed(jobs[handle]))
        asked[handle] = handle.call(Device.recut, jobs[handle], added, optimizer_state)
    returned = membership.collect(asked, Device.recut)
    for handle, given_up in returned.items():
        recut_half(handle.half, jobs[handle], network, state, given_up)
    return {handle: num_bytes(given_up) for handle, given_up in returned.items()}


def _device_names(network: nn.Sequential, job: DeviceJob) -> Iterable[str]:
    return device_layers(network, job.split_point, job.tail_units).state_dict()


def recut_half(
    half: ServerHalf | FarHalf,
    job: DeviceJob,
    network: nn.Sequential,
    state: State,
    optimizer_state: State,
) -> None:
    """Gives a device's server half the layers that its job says, wherever it is.

    Args:
        half: server half.
        job: job of the device.
        network: the uncut network, as a pattern.
        state: state of the whole network.
        optimizer_state: optimiser's state of those of their parameters that are new there.
    """
    layers = server_layers(network, job.split_point, job.tail_units)
    if isinstance(half, FarHalf):
        own = {name: state[name] for name in layers.state_dict()}
        half.recut(job, own, optimizer_state)
    else:
        recut_server_half(half, job, fill(copy.deepcopy(layers), state), optimizer_state)
