"""Links of simulated devices: when messages that follow each other have passed, for many devices at once."""

import numpy as np
from numpy.typing import NDArray

from pipar_rpc.testbed.link import RateTrace
from pipar_rpc.timing.stage_recurrence import Array, ends_in_order

IntArray = NDArray[np.int_]
BYTES_PER_MBIT = 125_000.0


class Line:
    """One direction of a link, which devices share that differ from each other by a factor of its rate.

    A queue that is served at a changing rate is one that is served at a constant rate, if time is measured in
    the Mbit (10^6 bit) that could have passed: there the recurrence of a constant rate holds.

    Args:
        trace: rate of the device whose factor is 1.
    """

    def __init__(self, trace: RateTrace) -> None:
        self._trace = trace
        self._period, times = trace.period, [*trace.times]
        self.constant = self._period is None and len(times) == 1
        if self._period is not None:
            times.append(self._period)
        self._times, self._rates = np.array(times), np.array(trace.mbps)
        lasting = np.diff(self._times)
        self._carried: Array = np.concatenate([[0.0], np.cumsum(lasting * self._rates[: len(lasting)])])

    @property
    def mean_mbps(self) -> float:
        """The rate's mean: over the period, or the one that holds in the end."""
        if self._period is None:
            return float(self._rates[-1])
        return float(self._carried[-1] / self._period)

    def ends(self, ready: Array, mbit: Array, factor: Array, shift_s: Array) -> Array:
        """When each message has passed that queues behind those before it.

        Args:
            ready: seconds at which each is there, shape [C, N]; never falling along N.
            mbit: size of each in Mbit, shape [C, N].
            factor: of each device's rate, shape [C].
            shift_s: seconds by which its trace is ahead, shape [C].
        """
        own = mbit / factor[:, None]
        if self.constant:
            return ends_in_order(ready, own / self._rates[0])
        shift = shift_s[:, None]
        done = ends_in_order(self._by(ready + shift), own)
        return np.maximum(self._when(done) - shift, ready)

    def end(self, ready_s: float, mbit: float, factor: float, shift_s: float) -> float:
        """When one message has passed that begins at `ready_s`."""
        if self.constant:
            return ready_s + mbit / factor / float(self._rates[0])
        *_, (_, end, _) = self._trace.carry(mbit / factor * BYTES_PER_MBIT, ready_s + shift_s)
        return end - shift_s

    def _by(self, time: Array) -> Array:
        """Mbit that could have passed by a time."""
        if self._period is not None:
            rounds = np.floor(time / self._period)
            inside = np.interp(time - rounds * self._period, self._times, self._carried)
            return np.asarray(rounds * self._carried[-1] + inside)
        beyond = np.maximum(time - self._times[-1], 0.0) * self._rates[-1]
        return np.asarray(np.interp(time, self._times, self._carried) + beyond)

    def _when(self, mbit: Array) -> Array:
        """The first time by which so much could have passed."""
        rounds: Array = np.zeros_like(mbit)
        if self._period is not None:
            rounds = np.maximum(np.ceil(mbit / self._carried[-1]) - 1, 0.0)
            mbit = mbit - rounds * self._carried[-1]
        after = np.clip(np.searchsorted(self._carried, mbit, side="left"), 1, len(self._rates))
        rate, rest = self._rates[after - 1], mbit - self._carried[after - 1]
        seconds = np.divide(rest, rate, out=np.zeros_like(mbit), where=rest > 0)
        time = self._times[after - 1] + np.where(mbit > 0, seconds, 0.0)
        return time if self._period is None else time + rounds * self._period


def transfer(
    lines: list[Line], line: IntArray, ready: Array, mbit: Array, factor: Array, shift_s: Array
) -> Array:
    """As `Line.ends` for devices on several lines; `line` has the number of each device's, shape [C]."""
    if len(lines) == 1:
        return lines[0].ends(ready, mbit, factor, shift_s)
    ends: Array = np.empty(np.broadcast_shapes(ready.shape, mbit.shape))
    for number in np.unique(line):
        own = line == number
        ends[own] = lines[number].ends(ready[own], mbit[own], factor[own], shift_s[own])
    return ends
