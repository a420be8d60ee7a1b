"""Devices that sit rounds out: their networks are put away, on both sides, and brought back in time.

It is a matter of where the program keeps them. A device of which the training says that it holds a network
holds it, whether that is in memory or not; so nothing crosses for it, and no figure knows of it.
"""

from collections.abc import Collection
from concurrent.futures import Future

from pipar_rpc.base.states import State
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.training.device_loop import Device


class Resting:
    """Puts networks away and brings them back; does nothing where all devices keep theirs.

    Args:
        membership: devices that take part.
    """

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def wake(self, handles: Collection[DeviceHandle], network: State | None) -> None:
        """Brings back the networks of devices that rest and hold this one.

        Others are given another network, with which they wake.

        Args:
            handles: devices that are to train, or to be sent a change of what they hold.
            network: global network.

        Raises:
            PeerError: a device failed, or too few are left.
        """
        calls: dict[DeviceHandle, Future[None]] = {}
        for handle in handles:
            if network is None or handle.holds is not network or not handle.present:
                continue
            if handle.wakes_with(network):
                own = {name: network[name] for name in handle.device_names(network)}
                calls[handle] = handle.call(Device.wake, own)
        self._membership.collect(calls, Device.wake)

    def states(self, network: State | None) -> dict[DeviceHandle, State]:
        """Returns each device half; of a device that rests the global network, with which it will wake.

        Args:
            network: global network.
        """
        handles = self._membership.handles
        awake = {handle: handle.call(Device.state) for handle in handles if not handle.rests}
        found = {handle: network or {} for handle in handles if handle.rests}
        found |= self._membership.collect(awake, Device.state)
        return {handle: found[handle] for handle in handles if handle in found}

    def put_away(self, staying: Collection[DeviceHandle]) -> None:
        """Puts away the networks of all devices but those `staying`, which train next.

        Raises:
            PeerError: a device failed, or too few are left.
        """
        going = [
            handle
            for handle in self._membership.handles
            if handle.revive and not handle.rests and handle not in staying
        ]
        rested = {handle: handle.call(Device.rest) for handle in going}
        for handle in self._membership.collect(rested, Device.rest):
            handle.half.rest()
            handle.rests, handle.holds = True, None  # it will be given one whole
