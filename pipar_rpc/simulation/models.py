"""Models of a simulation on their way: up to be averaged, and down again."""

import numpy as np

from pipar_rpc.simulation.fleet import Fleet
from pipar_rpc.simulation.lines import IntArray, transfer
from pipar_rpc.simulation.steps import latency_of
from pipar_rpc.simulation.training import World
from pipar_rpc.timing.stage_recurrence import Array


class Models:
    """The transfers and averages of device halves; nothing where nothing is averaged.

    Args:
        world: what stays the same.
        fleet: all devices.
    """

    def __init__(self, world: World, fleet: Fleet) -> None:
        self._world, self._fleet = world, fleet
        self._mbit = np.array([kind.model_mbit for kind in world.kinds]) * world.aggregates
        halves = not world.strategy.shared_half
        self._bytes = np.array([kind.averaged_bytes(halves) for kind in world.kinds])

    def uploaded(self, devices: IntArray, elapsed_s: float, ready_s: Array) -> Array:
        """When the model of each device has arrived, in seconds from the start of the round.

        Args:
            devices: indices of devices.
            elapsed_s: seconds since the training began at that start, for traces.
            ready_s: when each has trained, which is when its upload begins.
        """
        world = self._world
        if not world.aggregates:
            return ready_s
        own = self._fleet.take(devices)
        message = ready_s[:, None], self._mbit[own.kind][:, None], own.uplink, own.shift_s + elapsed_s
        sent = transfer(world.lines.up, own.line, *message)[:, 0]
        return np.asarray(sent + latency_of(own, world.kinds)[0])

    def downloaded(self, devices: IntArray, elapsed_s: float, ready_s: float) -> Array:
        """Seconds until each device has the model that is sent at `ready_s`, from then on."""
        world, own = self._world, self._fleet.take(devices)
        ready = np.full((len(own), 1), ready_s)
        message = ready, self._mbit[own.kind][:, None], own.downlink, own.shift_s + elapsed_s
        ends = transfer(world.lines.down, own.line, *message)[:, 0]
        return np.asarray(ends - ready_s + latency_of(own, world.kinds)[1])

    def average_s(self, devices: IntArray) -> float:
        """Seconds of the average of these devices' networks.

        Each server process sums up those that it holds, and the first one adds up the sums.
        """
        world, own = self._world, self._fleet.take(devices)
        if not len(own):
            return 0.0
        sums = np.bincount(own.server, weights=self._bytes[own.kind] * own.weight)
        return world.average_s * float(sums.max() + (np.count_nonzero(sums) - 1) * self._bytes.max())
