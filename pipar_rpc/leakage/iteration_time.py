"""How long an iteration takes for each split point: as the run's selector predicted, or predicted here."""

import csv
import hashlib
import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipar_rpc.base.disk import write_whole
from pipar_rpc.base.errors import UserError, first_line
from pipar_rpc.compression.coding import CodingSpec
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.finished import FinishedRun
from pipar_rpc.results.run_files import LEAKAGE_TIMES, SELECTION
from pipar_rpc.selector.facts import DeviceFacts
from pipar_rpc.selector.prediction import Predictor
from pipar_rpc.selector.server_profiling import profile_server
from pipar_rpc.selector.sizes import crossings, unit_sizes
from pipar_rpc.testbed.device_speed import measure
from pipar_rpc.testbed.link_rates import link_rates
from pipar_rpc.testbed.unit_timer import Coder, sizes_to_time, time_units
from pipar_rpc.testbed.unit_times import UnitTimes

RUNS = 3  # that are timed for each batch size
BY_SELECTOR = "predicted by the run's selector, with the best N for each P"
HERE = "predicted from unit times that were measured on this machine, with the run's N and links"
NO_LINKS = "; its links are not emulated and count as nothing: network.uplink_mbps=... sets a rate"

Seconds = dict[int, float]
"""Seconds of an iteration by split point, 1..Q."""


def selected_seconds(folder: Path) -> Seconds:
    """What the run's selector predicted for each P: mean over the devices; empty without a selector."""
    found: dict[int, list[float]] = defaultdict(list)
    with suppress(FileNotFoundError), (folder / SELECTION).open(newline="") as file:
        for row in csv.DictReader(file):
            found[int(row["split_point"])].append(float(row["iteration_s"]))
    return {point: statistics.mean(seconds) for point, seconds in found.items()}


def predicted_seconds(run: FinishedRun, coding: CodingSpec) -> Seconds:
    """Predicts the iteration of device 1 for each P by the stage recurrence, with the run's N, B and links.

    Units are timed on this machine, the server's under the load of all devices, the device's as the run's
    testbed has them. What moving models costs, and what a micro-batch costs the server besides computing, is
    not in it, and noise takes no time.

    Args:
        run: what the run was. The number of torch's threads is that of this process.
        coding: codecs of activations and gradients.
    """
    first, units = run.plan.devices[0], run.plan.network.units
    speed = replace(first.speed, num_units=len(units), coding=coding)
    job = replace(first, coding=coding, speed=speed)
    sizes = sizes_to_time(job.batch_size, job.smallest)
    server = profile_server(job.model, sizes, RUNS, run.node.device, job.num_devices)
    known = job.uplink.rate.after(0.0), job.downlink.rate.after(0.0)
    facts = DeviceFacts(
        units=_device_units(job, run, sizes),
        **link_rates(job.uplink, job.downlink, known, None)._asdict(),
        batch_size=job.batch_size,
        smallest=job.smallest,
        iterations=float("inf"),
        crossing=crossings([job], units, RUNS, run.node.device)[0],
    )
    needs = unit_sizes(job.model, build_model_codec(job.model_codec, "compression.models"))
    found = Predictor(facts, server, needs, job.num_devices).seconds(job.num_micro_batches)
    scale = run.plan.settings.time_scale
    return {point: float(seconds) * scale for point, seconds in enumerate(found, start=1)}


def _device_units(job: DeviceJob, run: FinishedRun, sizes: Sequence[int]) -> list[UnitTimes]:
    machine = measure(job.speed, run.node.device) if job.speed.calibrated else None
    emulated = job.speed.unit_times(machine)
    if emulated is not None:
        return emulated
    return time_units(job.model, sizes, RUNS, run.node.device, coder=Coder.of(job.coding)).units


class IterationTimes:
    """Times by codecs; what was measured once stays in a file, so that the same command gives the same table.

    Args:
        folder: folder of the run.
        output: folder of that file.
        run: what the run was.
        config: text that says what was run; times that were measured for another one do not count.
    """

    def __init__(self, folder: Path, output: Path, run: FinishedRun, config: str) -> None:
        self._folder, self._path, self._run = folder, output / LEAKAGE_TIMES, run
        key = hashlib.sha256(f"{platform.node()} {config}".encode()).hexdigest()[:16]
        self._known = self._read().get(key, {})
        self._key = key

    @property
    def origin(self) -> str:
        """A line about where the times of the run's own codecs come from."""
        if selected_seconds(self._folder):
            return BY_SELECTOR
        return HERE + ("" if self._run.plan.devices[0].links_emulated else NO_LINKS)

    def seconds(self, coding: CodingSpec, label: str) -> Seconds:
        """Seconds of an iteration for each P.

        Args:
            coding: codecs of activations and gradients.
            label: their name in the file.
        """
        if coding == self._run.plan.devices[0].coding and (selected := selected_seconds(self._folder)):
            return selected
        if label not in self._known:
            found = predicted_seconds(self._run, coding)
            self._known[label] = {str(point): seconds for point, seconds in found.items()}
            text = json.dumps(self._read() | {self._key: self._known}, indent=1)
            write_whole(self._path, lambda file: file.write(text.encode()))
        return {int(point): seconds for point, seconds in self._known[label].items()}

    def _read(self) -> dict[str, dict[str, dict[str, float]]]:
        try:
            found: dict[str, dict[str, dict[str, float]]] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UserError(f"{self._path}: cannot be read: {first_line(error)}") from error
        return found
