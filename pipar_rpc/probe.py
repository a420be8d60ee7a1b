"""How fast the links to a device are: known if emulated, else told by the traffic or by timed transfers."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipar_rpc.link import LinkSpec
from pipar_rpc.passage import Ping

PROBE_BYTES = (1 << 16, 1 << 20, 1 << 24)  # the next one if the last one was too short to be timed
LONG_ENOUGH_S = 0.2


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
    real: LinkRates | None,
) -> LinkRates:
    """Rates and latencies of a device's links: emulated ones as they are, the others as measured.

    Args:
        up: the emulated uplink.
        down: the emulated downlink.
        carried: Mbit/s of what the emulated ones carried last; None for what they carry at their beginning.
        real: as measured, if one of them is not limited; emulated latencies add to it.
    """
    real = real or LinkRates(math.inf, math.inf, 0.0, 0.0)

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
    """The device's end of pings and timed transfers."""

    def clock(self) -> float:
        """This process's `time.monotonic()`, to compare it with others'."""
        return time.monotonic()

    def give(self, num_bytes: int) -> Tensor:
        """A message of that size, over the uplink."""
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def take(self, message: Tensor) -> None:
        """Receives a message, over the downlink."""


def measure_rates(
    call: Callable[..., Any], took: Ping, carried: tuple[float | None, float | None] = (None, None)
) -> LinkRates:
    """Rates as their traffic told; where it did not, transfers are timed for half a second.

    Args:
        call: runs a method of `Probed` on the device and waits for it.
        took: between the two.
        carried: Mbit/s, up and down, of the traffic.
    """

    def seconds(method: str, num_bytes: int) -> float:
        message: Any = num_bytes if method == "give" else torch.zeros(num_bytes, dtype=torch.uint8)
        began = time.monotonic()
        call(method, message)
        return time.monotonic() - began

    def rate(method: str) -> float:
        mbps = math.inf
        for num_bytes in PROBE_BYTES:
            lasting = seconds(method, num_bytes) - took.round_trip_s
            mbps = num_bytes * 8e-6 / max(lasting, 1e-6)
            if lasting >= LONG_ENOUGH_S:
                break
        return mbps

    one_way_s = took.round_trip_s / 2
    return LinkRates(carried[0] or rate("give"), carried[1] or rate("take"), one_way_s, one_way_s)
