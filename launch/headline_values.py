"""What launch.headline compares, as values: places, iterations of each strategy, and runs beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

ITERATIONS = 100  # of an epoch of the paper
COMPARED = ("fl", "sfl", "pipar")
LARGEST_DEVIATION = 0.05  # of a run's computed time, beyond which nothing computed of that network is valid


class Link(NamedTuple):
    """Rates of each device's link in Mbit/s."""

    uplink_mbps: float
    downlink_mbps: float


class Place(NamedTuple):
    """What is the same for all strategies that are compared with each other."""

    model: str
    num_devices: int
    network: str


@dataclass(frozen=True)
class Figures:
    """An iteration of one strategy; all times are seconds.

    Attributes:
        split_point: P.
        num_micro_batches: N.
        iteration_s: time of the iteration.
        server_idle_s: time of it in which no server half computes.
        models_s: time that models take to both directions at an aggregation.
    """

    split_point: int
    num_micro_batches: int
    iteration_s: float
    server_idle_s: float
    models_s: float

    @property
    def epoch_s(self) -> float:
        """Seconds of an epoch of 100 iterations with one aggregation."""
        return ITERATIONS * self.iteration_s + self.models_s

    @property
    def epoch_idle_s(self) -> float:
        """Seconds of it in which the server idles; it does while models are on their way."""
        return ITERATIONS * self.server_idle_s + self.models_s


@dataclass(frozen=True)
class Case:
    """The strategies in one place.

    Attributes:
        place: network, number of devices and links.
        measured: whether all three strategies were run there.
        of: figures by strategy.
        valid: whether what is computed for all runs of this network and so many devices is near enough.
    """

    place: Place
    measured: bool
    of: Mapping[str, Figures]
    valid: bool = True


class Check(NamedTuple):
    """A run beside what the stage recurrence gives for its P and N."""

    place: Place
    strategy: str
    measured: Figures
    computed: Figures

    @property
    def deviation(self) -> float:
        """By which share the computed iteration is longer; negative if it is shorter."""
        return self.computed.iteration_s / self.measured.iteration_s - 1

    @property
    def near(self) -> bool:
        """Whether it is computed as well as all that is called valid must be."""
        return abs(self.deviation) <= LARGEST_DEVIATION
