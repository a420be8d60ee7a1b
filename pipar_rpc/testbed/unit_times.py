"""Emulated device speed: each stage is stretched, by sleeping, to what a slower device would take.

How long a stage takes comes from times of the single units, recorded before the training, and not from what
it takes while training: devices that share this machine's cores would slow each other down. Stretching each
stage by its CPU time was tried: caches, memory and page faults made CPU time of the same work differ by up
to 40 % from process to process, and by a tenth with one busy neighbour.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

from pipar_rpc.timing.timeline import Stage

Seconds = Callable[[Stage, int], float]
"""Emulated seconds of (stage, samples)."""


@dataclass
class Pace:
    """Stretches computation to what the emulated device would take.

    Args:
        seconds: function from stage and samples to the seconds that they take on it.
        clock: wall time in seconds; another one in tests.
        sleep: sleeps for seconds; one that can be interrupted where the device may be stopped.

    Attributes:
        emulated_s: emulated seconds so far.
        late_s: seconds by which real computing took longer than the emulated device would.
        finish: waits until what was to be computed is done; it is already, but on a GPU.
    """

    seconds: Seconds
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    emulated_s: float = 0.0
    late_s: float = 0.0
    finish: Callable[[], None] = lambda: None
    _overslept_s: float = field(default=0.0, init=False)

    @contextmanager
    def stretch(self, stage: Stage, samples: int) -> Iterator[None]:
        """Runs the block, then sleeps until it has lasted as long as on the emulated device.

        Sleeping too long by a little, as operating systems do, shortens the next block's sleep.

        Args:
            stage: stage of the computation.
            samples: number of samples.
        """
        began = self.clock()
        yield
        self.finish()
        lasting = self.seconds(stage, samples)
        self.emulated_s += lasting
        end = began + lasting - self._overslept_s
        remaining = end - self.clock()
        if remaining > 0:
            self.sleep(remaining)
            self._overslept_s = self.clock() - end
        else:
            self.late_s += max(0.0, -remaining - self._overslept_s)
            self._overslept_s = 0.0


class NativePace(Pace):
    """This machine's own speed: nothing is stretched."""

    def __init__(self) -> None:
        super().__init__(lambda stage, samples: 0.0)

    @contextmanager
    def stretch(self, stage: Stage, samples: int) -> Iterator[None]:
        """Runs the block."""
        yield


@dataclass(frozen=True)
class UnitTimes:
    """How long one cut unit takes.

    Attributes:
        name: name of the unit in the network.
        forward: batch size -> seconds.
        backward: batch size -> seconds.
        update: seconds of the optimiser step.
        encode: batch size -> seconds in which a codec encodes what leaves here if the network is cut after
            the unit: its output on the device, the output's gradient on the server. Empty without a codec.
        decode: batch size -> seconds in which it decodes what arrives.
        far_encode: batch size -> seconds in which this machine would encode what leaves the other side there.
        far_decode: batch size -> seconds in which it would decode what arrives there.
    """

    name: str
    forward: dict[int, float]
    backward: dict[int, float]
    update: float
    encode: dict[int, float] = field(default_factory=dict)
    decode: dict[int, float] = field(default_factory=dict)
    far_encode: dict[int, float] = field(default_factory=dict)
    far_decode: dict[int, float] = field(default_factory=dict)

    def with_coding_of(self, other: "UnitTimes") -> "UnitTimes":
        """These times with the other's of codecs."""
        coding = {name: getattr(other, name) for name in ("encode", "decode", "far_encode", "far_decode")}
        return replace(self, **coding)

    def iteration_s(self, samples: int) -> float:
        """Forward pass, backward pass and update of a mini-batch of `samples`, in one piece."""
        return interpolate(self.forward, samples) + interpolate(self.backward, samples) + self.update

    def joined(self, other: "UnitTimes") -> "UnitTimes":
        """Times at the batch sizes of both; the update's is the other's."""
        return UnitTimes(
            name=self.name,
            forward=self.forward | other.forward,
            backward=self.backward | other.backward,
            update=other.update,
            encode=self.encode | other.encode,
            decode=self.decode | other.decode,
            far_encode=self.far_encode | other.far_encode,
            far_decode=self.far_decode | other.far_decode,
        )

    def longer(self, more: "UnitTimes", less: "UnitTimes", factor: float) -> "UnitTimes":
        """These times and what `more` takes beyond `less`, both of another device, times `factor`."""

        def add(
            own: Mapping[int, float], own_more: Mapping[int, float], own_less: Mapping[int, float]
        ) -> dict[int, float]:
            return {
                size: seconds + factor * max(0.0, interpolate(own_more, size) - interpolate(own_less, size))
                for size, seconds in own.items()
            }

        return replace(
            self,
            forward=add(self.forward, more.forward, less.forward),
            backward=add(self.backward, more.backward, less.backward),
            update=self.update + factor * max(0.0, more.update - less.update),
        )

    def scaled(self, factor: float, digits: int | None = None) -> "UnitTimes":
        """The times of a device that takes `factor` times as long, rounded to `digits` if given."""

        def scale(seconds: float) -> float:
            return seconds * factor if digits is None else round(seconds * factor, digits)

        def scale_all(times: Mapping[int, float]) -> dict[int, float]:
            return {size: scale(seconds) for size, seconds in times.items()}

        passes = scale_all(self.forward), scale_all(self.backward)
        coding = map(scale_all, (self.encode, self.decode, self.far_encode, self.far_decode))
        return UnitTimes(self.name, *passes, scale(self.update), *coding)


def replayed(
    units: Sequence[UnitTimes], tail: Sequence[UnitTimes] = (), before_tail: UnitTimes | None = None
) -> Seconds:
    """The times of a device that holds some units.

    Between the recorded batch sizes, times are interpolated; beyond them, they grow in proportion.

    Args:
        units: first units, in order.
        tail: last units, if the labels stay on the device.
        before_tail: unit before them, which the server holds.
    """
    before, last = before_tail or units[-1], units[-1]
    tables = {
        Stage.DEVICE_FORWARD: [unit.forward for unit in units],
        Stage.DEVICE_BACKWARD: [unit.backward for unit in units],
        Stage.DEVICE_TAIL: [times for unit in tail for times in (unit.forward, unit.backward)],
        Stage.DEVICE_ENCODE: [last.encode],
        Stage.DEVICE_DECODE: [last.decode],
        Stage.OUTPUT_DECODE: [before.far_decode],  # what the server does at the other cut
        Stage.RETURN_ENCODE: [before.far_encode],
    }
    update = sum(unit.update for unit in (*units, *tail))

    @cache  # of few sizes, and asked for at every micro-batch
    def seconds(stage: Stage, samples: int) -> float:
        if stage is Stage.UPDATE:
            return update
        return sum(interpolate(times, samples) for times in tables.get(stage, ()))

    return seconds


def interpolate(times: Mapping[int, float], samples: int) -> float:
    """Seconds at `samples`: on straight lines between the recorded batch sizes, in proportion beyond them.

    A line through the two nearest would multiply the noise of recordings that are close to each other.
    """
    if samples in times or not times:
        return times.get(samples, 0.0)
    sizes = sorted(times)
    above = bisect_left(sizes, samples)
    if above in {0, len(sizes)}:
        nearest = sizes[0] if above == 0 else sizes[-1]
        return times[nearest] * samples / nearest
    low, high = sizes[above - 1], sizes[above]
    return times[low] + (times[high] - times[low]) * (samples - low) / (high - low)
