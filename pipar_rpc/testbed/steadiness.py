"""Which of the repeated runs of a measurement count, and whether something disturbed it.

Other work on a machine only ever makes a run longer. So runs in which the computing thread had to wait for a
core are left out, and of the others the faster half counts: half may be disturbed, and the times are those of
a quiet machine. How far the ones that count are apart is the spread. A load that never ceases
slows all runs alike and has a small spread; only the operating system tells of it (`base.machine_load`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch

from pipar_rpc.testbed.unit_times import UnitTimes

STEADY = 0.05  # spread that is good enough: nothing is repeated
DISTURBED = 0.1  # spread that is told
WAITED = 0.1  # share of a run for which its thread had no core; such runs are left out
MOST_BLOCKS = 4  # of runs for each size


@dataclass(frozen=True)
class Steadiness:
    """How steady the runs behind some times were.

    Attributes:
        spreads: batch size -> spread: the slowest run that counts, relative to the fastest, less 1.
        seconds: batch size -> seconds of a forward and a backward pass.
        waited: batch sizes most of whose runs had to wait for a core.
    """

    spreads: Mapping[int, float] = field(default_factory=dict)
    seconds: Mapping[int, float] = field(default_factory=dict)
    waited: tuple[int, ...] = ()

    @property
    def largest(self) -> float:
        """The largest spread of all batch sizes."""
        return max(self.spreads.values(), default=0.0)

    def joined(self, other: "Steadiness") -> "Steadiness":
        """What both know."""
        return Steadiness(
            {**self.spreads, **other.spreads}, {**self.seconds, **other.seconds}, self.waited + other.waited
        )

    def too_slow(self, tolerance: float) -> Iterator[tuple[int, int]]:
        """Batch sizes that take longer than the next larger one by more than `tolerance`, with that one."""
        for smaller, larger in pairwise(sorted(self.seconds)):
            if self.seconds[smaller] > (1 + tolerance) * self.seconds[larger]:
                yield smaller, larger

    def reasons(self) -> list[str]:
        """What says that the measurement was disturbed; empty if nothing does."""
        told = []
        if self.largest > DISTURBED:
            size = max(self.spreads, key=lambda size: self.spreads[size])
            told.append(f"runs of {size} samples differ by {self.largest:.0%}")
        for smaller, larger in self.too_slow(DISTURBED):
            seconds = f"{self.seconds[smaller]:.3g} s, {self.seconds[larger]:.3g} s"
            told.append(f"{smaller} samples take longer than {larger} ({seconds})")
        if self.waited:
            told.append(f"runs of {', '.join(map(str, self.waited))} samples waited for a core")
        return told


class Timed(NamedTuple):
    """Times of units, and how steady the runs behind them were."""

    units: list[UnitTimes]
    steadiness: Steadiness


class _Run(NamedTuple):
    """One run of the whole network.

    Attributes:
        number: its number among all runs of its size, from 0.
        seconds: its length.
        waited: share of it for which its thread had no core; 0 if that is not known.
    """

    number: int
    seconds: float
    waited: float


class Repeats:
    """Collects blocks of runs for each batch size, and says which sizes need another block.

    Args:
        sizes: batch sizes.
        runs: number of runs of a block that count; there is one more before them.
    """

    def __init__(self, sizes: Sequence[int], runs: int) -> None:
        self._runs: dict[int, list[_Run]] = {size: [] for size in sizes}
        self._of_a_block, self._blocks = runs, dict.fromkeys(sizes, 0)

    def add(self, size: int, seconds: Sequence[float], waited: Sequence[float]) -> None:
        """Adds a block, whose first run does not count.

        Args:
            size: batch size.
            seconds: length of each run.
            waited: share of each run for which its thread had no core.
        """
        first = self._blocks[size] * (1 + self._of_a_block)
        runs = [_Run(first + n, *run) for n, run in enumerate(zip(seconds, waited, strict=True))]
        self._runs[size] += runs[1:]
        self._blocks[size] += 1

    def to_repeat(self) -> list[int]:
        """The sizes that are not steady yet and may have another block."""
        found = self.steadiness()
        slow = {smaller for smaller, _ in found.too_slow(STEADY)}
        return [
            size
            for size, blocks in self._blocks.items()
            if (found.spreads[size] > STEADY or size in slow or size in found.waited) and blocks < MOST_BLOCKS
        ]

    def counted(self) -> dict[int, list[int]]:
        """For each size the numbers of the runs that count."""
        return {size: [run.number for run in self._counted(size)] for size in self._runs}

    def steadiness(self) -> Steadiness:
        """What is known so far."""
        counted = {size: self._counted(size) for size in self._runs}
        return Steadiness(
            spreads={
                size: runs[-1].seconds / runs[0].seconds - 1 if runs[0].seconds else 0.0
                for size, runs in counted.items()
            },
            seconds={size: runs[len(runs) // 2].seconds for size, runs in counted.items()},
            waited=tuple(size for size in self._runs if not self._undisturbed(size)),
        )

    def _counted(self, size: int) -> list[_Run]:
        """The faster half, the fastest first; two at least, for one alone has no spread."""
        runs = sorted(self._undisturbed(size) or self._runs[size], key=lambda run: run.seconds)
        return runs[: max(2, (len(runs) + 1) // 2)]

    def _undisturbed(self, size: int) -> list[_Run]:
        """The runs that did not wait; empty if they are less than half a block."""
        found = [run for run in self._runs[size] if run.waited <= WAITED]
        return found if 2 * len(found) >= self._of_a_block else []


class Waits:
    """For which share of each run the computing thread had no core.

    It is known of a CPU on which one thread computes; otherwise it is 0.

    Args:
        device: torch device that computes.
        clock: wall time in seconds.

    Attributes:
        shares: a share for each run, 0..1.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._known, self._clock = device.type == "cpu" and torch.get_num_threads() == 1, clock
        self.shares: list[float] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes the share of the block."""
        began, computed = self._clock(), time.thread_time()
        yield
        seconds, cpu_s = self._clock() - began, time.thread_time() - computed
        self.shares.append(max(0.0, 1 - cpu_s / seconds) if self._known and seconds > 0 else 0.0)
