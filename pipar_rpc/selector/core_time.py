"""How long the cores of the server's machine need for all processes that run on it.

On one machine K devices and the server share its cores, and an iteration cannot be shorter than their work on
all cores: computing as this machine really does it, however far an emulated device stretches it, and what
micro-batches take besides. Devices are taken to be all alike. Work of devices elsewhere does not count.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipar_rpc.selector.facts import DeviceFacts, ServerFacts
from pipar_rpc.selector.tables import by_split_point, rest_of, table
from pipar_rpc.testbed.unit_times import UnitTimes
from pipar_rpc.timing.stage_recurrence import Array


class CoreTime:
    """CPU seconds of all processes on the server's machine, divided by its cores.

    Args:
        device: facts about the device.
        server: facts about the server.
        halves: number of server halves that compute.
        trained: whether each device half, by P, has anything to train.
    """

    def __init__(self, device: DeviceFacts, server: ServerFacts, halves: int, trained: Array) -> None:
        size, units = device.batch_size, device.units
        last, crossings = len(units) - device.tail_units, 2 if device.tail_units else 1
        there = self._both(server.units[:last], size, len(units))
        there[:-1] += crossings * server.message_cpu_s
        update = sum(unit.update for unit in server.units) - np.cumsum([own.update for own in server.units])
        each, updates = halves * there, halves * update
        if device.crossing is not None and device.crossing.server:
            each[:-1] += halves * self._coding(device.crossing.server, size)[:-1]
        if device.message.beside_server:
            here = by_split_point(units, "forward", size)
            here += by_split_point(units, "backward", size) * trained[:, None]
            if device.tail_units:
                here[:-1] += self._passes(units[last:], size).sum(axis=0)
            updates_here = np.cumsum([unit.update for unit in units]) * trained
            if device.crossing is not None:
                here[:-1] += self._coding(units, size)[:-1]
            stretched = self._stretched(device, server)
            here /= stretched
            here[:-1] += crossings * device.message.cpu_s
            each += server.devices_here * here
            updates += server.devices_here * updates_here / stretched
        self._each: Array = each / server.cores
        self._update: Array = updates / server.cores

    def seconds(self, samples: NDArray[np.int_]) -> Array:
        """Of an iteration whose micro-batches have so many samples, for every split point: shape [Q]."""
        return np.asarray(self._each[:, samples].sum(axis=1) + self._update)

    def _both(self, units: Sequence[UnitTimes], size: int, num_units: int) -> Array:
        """Passes of the units behind each split point: shape [Q, B+1]."""
        return rest_of(units, "forward", size, num_units) + rest_of(units, "backward", size, num_units)

    def _passes(self, units: Sequence[UnitTimes], size: int) -> Array:
        return table(units, "forward", size) + table(units, "backward", size)

    def _coding(self, units: Sequence[UnitTimes], size: int) -> Array:
        return table(units, "encode", size) + table(units, "decode", size)

    def _stretched(self, device: DeviceFacts, server: ServerFacts) -> float:
        """How many times longer an emulated device takes than this machine, by all units that it can hold."""
        own, here = (self._passes(units, device.batch_size)[:, -1] for units in (device.units, server.units))
        known = own > 0
        return float(own[known].sum() / here[known].sum()) if here[known].sum() > 0 else 1.0
