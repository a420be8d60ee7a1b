"""Seconds and bytes for every split point and every number of samples, as the prediction reads them."""

from collections.abc import Sequence

import numpy as np

from pipar_rpc.selector.facts import DeviceFacts, UnitSizes
from pipar_rpc.testbed.unit_times import UnitTimes, interpolate
from pipar_rpc.timing.stage_recurrence import Array

LABEL_BYTES = 8  # an int64 for each sample, sent with the activation


def crossing_bytes(device: DeviceFacts, sizes: Sequence[UnitSizes]) -> tuple[Array, Array]:
    """Bytes up, with the labels, and down for each split point and 0..B samples: shape [Q, B+1]."""
    up, down = payloads(device, sizes)
    if not device.tail_units:
        up += LABEL_BYTES * np.arange(device.batch_size + 1)
    up[-1] = down[-1] = 0.0  # P = Q: the loss is computed on the device
    return up, down


def payloads(device: DeviceFacts, sizes: Sequence[UnitSizes]) -> tuple[Array, Array]:
    """Bytes of each unit's output and of its gradient for 0..B samples: shape [Q, B+1]."""
    samples = np.arange(device.batch_size + 1, dtype=float)
    if device.crossing is None:
        up = np.array([unit.activation_bytes for unit in sizes], dtype=float)[:, None] * samples
        return up, up.copy()
    crossing = device.crossing
    return crossing.uplink_bytes[:, : len(samples)].copy(), crossing.downlink_bytes[:, : len(samples)].copy()


def table(units: Sequence[UnitTimes], direction: str, batch_size: int) -> Array:
    """Seconds of each unit for 0..B samples: shape [Q, B+1]."""
    rows = []
    for unit in units:
        times: dict[int, float] = getattr(unit, direction) or {1: 0.0}
        sizes = [0, *sorted(times), max(times) * batch_size]
        seconds = [0.0, *(times[size] for size in sizes[1:-1]), interpolate(times, sizes[-1])]
        rows.append(np.interp(np.arange(batch_size + 1), sizes, seconds))
    return np.stack(rows)


def by_split_point(units: Sequence[UnitTimes], direction: str, batch_size: int) -> Array:
    """Seconds of units 1..P for 0..B samples: shape [Q, B+1]."""
    return np.cumsum(table(units, direction, batch_size), axis=0)


def rest_of(units: Sequence[UnitTimes], direction: str, batch_size: int, num_units: int) -> Array:
    """Seconds of the units from P+1 on for 0..B samples: shape [Q, B+1].

    Args:
        units: units of the network but for the last ones that the server never has.
        direction: table of their times.
        batch_size: B.
        num_units: Q.
    """
    seconds = table(units, direction, batch_size)
    rest = np.cumsum(seconds[::-1], axis=0)[::-1] - seconds
    return np.concatenate([rest, np.zeros((num_units - len(units), batch_size + 1))])
