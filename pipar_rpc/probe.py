"""Timed transfers between the server and a device, over links that are not emulated."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipar_rpc.link import LinkSpec

PROBE_BYTES = (1 << 16, 1 << 20, 1 << 24)  # the next one if the last one was too short to be timed
LONG_ENOUGH_S = 0.2
PINGS = 5


class LinkRates(NamedTuple):
    """Mbit/s (10^6 bit/s) and latency in seconds of a device's links."""

    uplink_mbps: float
    downlink_mbps: float
    uplink_latency_s: float
    downlink_latency_s: float


def link_rates(
    up: LinkSpec,
    down: LinkSpec,
    carried: tuple[float | None, float | None],
    measure: Callable[[], LinkRates],
) -> LinkRates:
    """Rates and latencies of a device's links: emulated ones as they are, the others as measured.

    Args:
        up: the emulated uplink.
        down: the emulated downlink.
        carried: Mbit/s of what the emulated ones carried last; None for what they carry at their beginning.
        measure: called if one of them is not limited; emulated latencies add to what it finds.
    """
    real = LinkRates(math.inf, math.inf, 0.0, 0.0)
    if not (up.rate.limited and down.rate.limited):
        real = measure()

    def rate(link: LinkSpec, last: float | None, measured: float) -> float:
        if not link.rate.limited:
            return measured
        return last or next(mbps for mbps in link.rate.mbps if mbps)

    def latency(link: LinkSpec, measured: float) -> float:
        own = link.latency_s + link.jitter_s / 2
        return own if link.rate.limited else own + measured

    return LinkRates(
        *(rate(up, carried[0], real.uplink_mbps), rate(down, carried[1], real.downlink_mbps)),
        *(latency(up, real.uplink_latency_s), latency(down, real.downlink_latency_s)),
    )


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
