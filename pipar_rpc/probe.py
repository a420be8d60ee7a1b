"""Timed transfers between the server and a device, over links that are not emulated."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

PROBE_BYTES = (1 << 16, 1 << 20, 1 << 24)  # the next one if the last one was too short to be timed
LONG_ENOUGH_S = 0.2
PINGS = 5


class LinkRates(NamedTuple):
    """Mbit/s (10^6 bit/s) and latency in seconds of a device's links."""

    uplink_mbps: float
    downlink_mbps: float
    uplink_latency_s: float
    downlink_latency_s: float


class Probed:
    """The device's end of timed transfers."""

    def give(self, num_bytes: int) -> Tensor:
        """A message of that size, over the uplink."""
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def take(self, message: Tensor) -> None:
        """Receives a message, over the downlink."""


def measure_rates(call: Callable[..., Any]) -> LinkRates:
    """Times transfers; takes about half a second.

    Args:
        call: runs a method of `Probed` on the device and waits for it.
    """

    def seconds(method: str, num_bytes: int) -> float:
        message: Any = num_bytes if method == "give" else torch.zeros(num_bytes, dtype=torch.uint8)
        began = time.monotonic()
        call(method, message)
        return time.monotonic() - began

    def rate(method: str) -> float:
        mbps = math.inf
        for num_bytes in PROBE_BYTES:
            lasting = seconds(method, num_bytes) - round_trip
            mbps = num_bytes * 8e-6 / max(lasting, 1e-6)
            if lasting >= LONG_ENOUGH_S:
                break
        return mbps

    round_trip = min(seconds("give", 0) for _ in range(PINGS))
    return LinkRates(rate("give"), rate("take"), round_trip / 2, round_trip / 2)
