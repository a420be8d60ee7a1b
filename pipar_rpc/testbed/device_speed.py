"""How fast the emulated device is: from a factor, a calibration or a recorded profile to its pace."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.fresh_process import run_in_process
from pipar_rpc.compression.coding import NO_CODECS, CodingSpec
from pipar_rpc.models import ModelSpec, Norm, build_meta, build_model, smallest_batch, summarise
from pipar_rpc.privacy.spec import NO_PRIVACY, PrivacySpec
from pipar_rpc.testbed.unit_timer import Coder, run_once, sizes_to_time, timers
from pipar_rpc.testbed.unit_times import NativePace, Pace, UnitTimes, replayed

REFERENCE_MODEL = ModelSpec("vgg5", Norm.batch, channels=3, image_size=32, num_classes=10)
REFERENCE_BATCH = 100
RUNS, FEWEST_RUNS = 9, 3
LONG_S = 30.0  # after which large networks are content with fewer runs
MEASURE_TIMEOUT_S = 240.0
# By default glibc adapts to what a process did before, and CPU time of the same work differs by up to 40 %
# from process to process. So large blocks always come from the kernel, in a process without a history.
STEADY_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17), "MALLOC_TRIM_THRESHOLD_": str(1 << 17)}
SLOWEST_FLOPS = 1e9  # per second, of one core of whatever machine this is: only for deadlines


@dataclass(frozen=True)
class MachineSpeed:
    """What a calibration finds out about a machine.

    Attributes:
        reference_s: seconds of the forward and backward pass of VGG5's first unit (with batch norm) on 100
            images of 3x32x32.
        units: times of all units of a job's network.
        plain: their times without DP-SGD, where the job has it and a profile has not; otherwise empty.
    """

    reference_s: float
    units: tuple[UnitTimes, ...]
    plain: tuple[UnitTimes, ...] = ()


@dataclass(frozen=True)
class SpeedSpec:
    """The emulated device's speed, as plain data.

    Attributes:
        model: the uncut network.
        num_units: first cut units that the device holds.
        batch_size: size of the largest batches of any device.
        slowdown: factor on this machine's computing time; with a calibration, on the calibrated time.
        calibrate_s: `MachineSpeed.reference_s` of the emulated device; None for no calibration.
        profile: recorded times of the network's units; empty for none. They take precedence.
        time_scale: divides all emulated times.
        coding: codecs of activations and gradients, which take their time too.
        tail_units: last cut units that the device holds besides.
        privacy: privacy mechanisms, which take their time too.
        warning: line for the log if the profile was recorded on a disturbed machine; otherwise None.
    """

    model: ModelSpec
    num_units: int
    batch_size: int
    slowdown: float = 1.0
    calibrate_s: float | None = None
    profile: tuple[UnitTimes, ...] = ()
    time_scale: float = 1.0
    coding: CodingSpec = NO_CODECS
    tail_units: int = 0
    privacy: PrivacySpec = NO_PRIVACY
    warning: str | None = None

    @property
    def native(self) -> bool:
        """Whether the device is as fast as this machine."""
        return not self.profile and self.calibrate_s is None and self.slowdown == 1

    @property
    def calibrated(self) -> bool:
        """Whether this machine's speed has to be known; a profile has no times of codecs or mechanisms."""
        plain = self.coding.exact and self.privacy.idle_at_cut and not self.private
        return not (self.native or (self.profile and plain))

    @property
    def private(self) -> bool:
        """Whether units are trained by DP-SGD."""
        return self.privacy.dpsgd is not None

    def factor(self, machine: MachineSpeed) -> float:
        """Emulated seconds for each second of computing on `machine`."""
        if self.profile:
            recorded, here = (
                sum(unit.iteration_s(self.batch_size) for unit in units)
                for units in (self.profile, machine.plain or machine.units)
            )
            return recorded / here
        target_s = machine.reference_s if self.calibrate_s is None else self.calibrate_s
        return self.slowdown * target_s / machine.reference_s

    def pace(self, machine: MachineSpeed | None = None, sleep: Callable[[float], None] = time.sleep) -> Pace:
        """The pace of the device half; this machine's own as long as a calibrated one is not known."""
        units = self._all_times(machine)
        if units is None:
            return NativePace()
        tail = len(units) - self.tail_units
        return Pace(replayed(units[: self.num_units], units[tail:], units[tail - 1]), sleep=sleep)

    def unit_times(self, machine: MachineSpeed | None) -> list[UnitTimes] | None:
        """Real seconds of each of the first units that the device holds, if its speed is emulated.

        Args:
            machine: measured, if the speed is `calibrated`.
        """
        units = self._all_times(machine)
        return None if units is None else units[: self.num_units]

    def _all_times(self, machine: MachineSpeed | None) -> list[UnitTimes] | None:
        """Real seconds of each unit of the network, if the device's speed is emulated."""
        if self.profile and (machine is None or not self.calibrated):
            return [unit.scaled(1 / self.time_scale) for unit in self.profile]
        if self.native or machine is None:
            return None
        factor = self.factor(machine) / self.time_scale
        units = [unit.scaled(factor) for unit in machine.units]
        if self.profile:
            recorded = (unit.scaled(1 / self.time_scale) for unit in self.profile)
            units = [
                own.longer(here, plain, factor).with_coding_of(unit)
                for own, unit, here, plain in zip(
                    recorded, units, machine.units, machine.plain or machine.units, strict=True
                )
            ]
        return units

    def worst_seconds(self, flops: float) -> float:
        """A generous guess of what an iteration computes on the emulated device, for deadlines.

        Args:
            flops: work of the forward pass of the units that the device holds, for one sample.
        """
        if self.profile:
            held = (*self.profile[: self.num_units], *self.profile[len(self.profile) - self.tail_units :])
            once = sum(unit.iteration_s(self.batch_size) for unit in held)
        elif self.calibrate_s is not None:
            work = flops * self.batch_size / (_reference_flops() * REFERENCE_BATCH)
            once = work * self.calibrate_s * self.slowdown
        else:  # a backward pass takes about two forward passes
            once = 0.0 if self.native else 3 * flops * self.batch_size / SLOWEST_FLOPS * self.slowdown
        return 2 * once / self.time_scale  # small micro-batches are less efficient


_measured: dict[tuple[str, int, torch.device], MachineSpeed] = {}


def measure(spec: SpeedSpec, device: torch.device) -> MachineSpeed:
    """Measures this machine; once for each network in the life of a process.

    So the jobs of a sweep do not differ by the noise of their calibrations.

    Raises:
        ConfigError: several threads compute, of which only one could be timed.
        PeerError: measuring failed or took too long.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu" and threads != 1:
        raise ConfigError("node.threads", threads, "1 for emulated speed, which times one thread")
    also_plain = spec.private and bool(spec.profile)
    key = (repr((spec.model, spec.coding, spec.privacy, also_plain)), spec.batch_size, device)
    found = _measured.get(key)
    if found is None:
        found = _measured[key] = run_in_process(
            _measure, spec, device, RUNS, environment=STEADY_MALLOC, timeout_s=MEASURE_TIMEOUT_S
        )
    return found


def _measure(spec: SpeedSpec, device: torch.device, runs: int) -> MachineSpeed:
    """CPU seconds of one thread; on a GPU wall seconds, for CPU time says nothing there.

    Always of the whole network: units that are measured without the others find warmer caches, and a device
    would be another one for each split point (by 10 to 30 % with ResNet18's second unit).
    """
    torch.set_num_threads(1)
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    reference = timers(build_model(REFERENCE_MODEL)[:1].to(device), device, clock)
    coder = Coder.of(spec.coding, spec.privacy)
    networks = [
        timers(build_model(spec.model).to(device), device, clock, coder, private)
        for private in ((True, False) if spec.private and spec.profile else (spec.private,))
    ]
    reference_images = REFERENCE_MODEL.make_input(REFERENCE_BATCH, device)
    inputs = spec.model.make_input(spec.batch_size, device)
    smallest = smallest_batch(build_meta(spec.model), spec.model)
    began = time.monotonic()
    for run in range(1 + runs):  # in turn: what slows the machine down for a while, slows both down
        if run > FEWEST_RUNS and time.monotonic() - began > LONG_S:
            break
        run_once(reference, reference_images)
        for size in sizes_to_time(spec.batch_size, smallest):
            for units in networks:
                run_once(units, inputs[:size])
    (first,) = (unit.times() for unit in reference)
    seconds = first.forward[REFERENCE_BATCH] + first.backward[REFERENCE_BATCH]
    return MachineSpeed(seconds, *(tuple(unit.times() for unit in units) for units in networks))


def host_name() -> str:
    """Name of this machine; processes of one machine are equally fast."""
    return platform.node()


def calibrate(
    spec: SpeedSpec, known: Mapping[str, MachineSpeed], device: torch.device
) -> tuple[str, MachineSpeed]:
    """This machine's name and speed, measured unless `known` has it."""
    host = host_name()
    machine = known.get(host)
    if machine is None:
        machine = measure(spec, device)
    return host, machine


def calibrate_all(
    specs: Sequence[SpeedSpec],
    ask: Callable[[int, Mapping[str, MachineSpeed]], tuple[str, MachineSpeed]],
) -> list[tuple[str, MachineSpeed] | None]:
    """Name and speed of each device's machine; None where the device's speed does not derive from it.

    One after the other, and one for each machine, so that they do not disturb each other.

    Args:
        specs: speed of each device.
        ask: function that runs `calibrate` on a device, by its index from 0, with the known machines.
    """
    known: dict[str, MachineSpeed] = {}
    found: list[tuple[str, MachineSpeed] | None] = []
    for index, spec in enumerate(specs):
        machine = ask(index, known) if spec.calibrated else None
        known |= [machine] if machine else []
        found.append(machine)
    return found


@cache
def _reference_flops() -> float:
    return summarise(build_meta(REFERENCE_MODEL), REFERENCE_MODEL)[0].flops
