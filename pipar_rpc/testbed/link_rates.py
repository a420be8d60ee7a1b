"""How fast the links to a device are: known if emulated, else told by the traffic or by timed transfers."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pipar_rpc.testbed.link import LinkSpec
from pipar_rpc.timing.traffic import Ping

T = TypeVar("T")

FIRST_BYTES, MOST_BYTES = 1 << 16, 1 << 24
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
    known: tuple[float, float],
    real: LinkRates | None,
) -> LinkRates:
    """Rates and latencies of a device's links: emulated ones as they are, the others as measured.

    Args:
        up: the emulated uplink.
        down: the emulated downlink.
        known: Mbit/s of the emulated ones, as they are at the moment.
        real: measured rates, if one of the links is not limited; emulated latencies add to them.
    """
    real = real or LinkRates(math.inf, math.inf, 0.0, 0.0)

    def latency(link: LinkSpec, measured: float) -> float:
        own = link.latency_s + link.jitter_s / 2
        return own if link.rate.limited else own + measured

    return LinkRates(
        known[0] if up.rate.limited else real.uplink_mbps,
        known[1] if down.rate.limited else real.downlink_mbps,
        latency(up, real.uplink_latency_s),
        latency(down, real.downlink_latency_s),
    )


class LinkTest:
    """The device's end of pings and timed transfers."""

    def clock(self) -> float:
        """This process's `time.monotonic()`, to compare it with others'."""
        return time.monotonic()

    def give(self, num_bytes: int) -> Tensor:
        """A message of that size, over the uplink."""
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def take(self, message: Tensor) -> None:
        """Receives a message, over the downlink."""


class RunLinkTest(Protocol):
    """Runs a method of `LinkTest` on the device and waits until it has ended."""

    def __call__(self, method: Callable[[LinkTest, T], object], message: T, /) -> object:
        """Calls `method` with `message`."""


def measure_rates(
    ask: RunLinkTest, took: Ping, uplink_mbps: float | None, downlink_mbps: float | None
) -> LinkRates:
    """Rates that are known; where one is not, transfers are timed, some tenths of a second.

    Args:
        ask: the device.
        took: between the two.
        uplink_mbps: Mbit/s, if known.
        downlink_mbps: Mbit/s, if known.
    """

    def up(num_bytes: int) -> None:
        ask(LinkTest.give, num_bytes)

    def down(num_bytes: int) -> None:
        ask(LinkTest.take, torch.zeros(num_bytes, dtype=torch.uint8))

    def seconds(transfer: Callable[[int], None], num_bytes: int) -> float:
        began = time.monotonic()
        transfer(num_bytes)
        return time.monotonic() - began

    def rate(transfer: Callable[[int], None]) -> float:
        num_bytes = FIRST_BYTES
        while True:
            lasting = max(1e-6, seconds(transfer, num_bytes) - took.round_trip_s)
            if lasting >= LONG_ENOUGH_S or num_bytes == MOST_BYTES:
                return num_bytes * 8e-6 / lasting
            wanted = int(num_bytes * 1.2 * LONG_ENOUGH_S / lasting)
            num_bytes = min(MOST_BYTES, max(2 * num_bytes, wanted))

    one_way_s = took.round_trip_s / 2
    return LinkRates(uplink_mbps or rate(up), downlink_mbps or rate(down), one_way_s, one_way_s)
