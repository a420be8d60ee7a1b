"""What units take on a device and on the server: from files, or recorded here once, as a training does it."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import torch

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.base.errors import ConfigError
from pipar_rpc.base.states import num_bytes
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.models import ModelSpec, build_model
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.simulation_plan import SimulationPlan
from pipar_rpc.selector.facts import Facts, MessageCost, ServerFacts
from pipar_rpc.selector.facts_file import read_facts
from pipar_rpc.selector.server_profiling import profile_server
from pipar_rpc.selector.sizes import crossings, unit_sizes
from pipar_rpc.simulation.kinds import Kind, Known
from pipar_rpc.testbed.device_speed import measure
from pipar_rpc.testbed.unit_timer import Coder, sizes_to_time, time_units
from pipar_rpc.testbed.unit_times import UnitTimes

RUNS = 5  # that are timed for each batch size
AVERAGES = 3
T = TypeVar("T")
_recorded: dict[str, object] = {}


def _once(what: object, record: Callable[[], T]) -> T:
    """What `record` returns; the jobs of a sweep share it, so that they do not differ by its noise."""
    key = repr(what)
    if key not in _recorded:
        _recorded[key] = record()
    return cast(T, _recorded[key])


def record_kinds(plan: SimulationPlan, device: torch.device) -> list[Kind]:
    """The kinds of devices of a plan, with all that is known of their units.

    Args:
        plan: plan of the job.
        device: torch device that computes, for what is recorded here.

    Raises:
        UserError: `simulation.facts` cannot be used.
    """
    spec, facts = plan.spec, _facts(plan)
    largest = max((own.job for own in plan.kinds), key=lambda job: job.batch_size)
    server = facts.server if facts else _server(plan, largest, device)
    if spec.server_cores is not None:
        server = replace(server, halves_at_once={1: spec.server_cores})
    server = server.scaled(spec.server_slowdown)
    codec = build_model_codec(largest.model_codec, "compression.models")
    sizes = unit_sizes(largest.model, codec, plan.settings.optimizer_copies)
    jobs = [own.job for own in plan.kinds]
    coded = _once(
        ("codecs", [(job.model, job.coding, job.batch_size, job.smallest) for job in jobs], device),
        lambda: crossings(jobs, plan.network.units, RUNS, device),
    )
    return [
        Kind(
            own.job,
            own.num_samples,
            Known(
                units=facts.devices[0].units if facts else _device_units(own.job, device),
                crossing=crossing,
                message=facts.devices[0].message if facts else MessageCost(),
                server=server,
                sizes=sizes,
            ),
        )
        for own, crossing in zip(plan.kinds, coded, strict=True)
    ]


def _facts(plan: SimulationPlan) -> Facts | None:
    """What a run's selector measured, in real seconds."""
    path = plan.spec.facts
    if path is None:
        return None
    facts = read_facts(Path(path))
    if [unit.activation_bytes for unit in facts.sizes] != [u.activation_bytes for u in plan.network.units]:
        same = "a file of a run with this network and as large samples"
        raise ConfigError("simulation.facts", path, same)
    return facts.scaled(1 / plan.settings.time_scale)


def _device_units(job: DeviceJob, device: torch.device) -> Sequence[UnitTimes]:
    """Times of all units on a device, in real seconds, as the job's testbed has them."""
    speed = replace(job.speed, num_units=job.num_units)
    machine = measure(speed, device) if speed.calibrated else None
    emulated = speed.unit_times(machine)
    if emulated is not None:
        return emulated
    sizes = sizes_to_time(job.batch_size, job.smallest)
    coder = Coder.of(job.coding, job.privacy)
    return _once(
        ("device", job.model, sizes, job.coding, job.privacy, device),
        lambda: time_units(job.model, sizes, RUNS, device, coder=coder, private=speed.private).units,
    )


def _server(plan: SimulationPlan, job: DeviceJob, device: torch.device) -> ServerFacts:
    spec, private = plan.spec, job.speed.private
    if spec.server_units:
        return ServerFacts(spec.server_units, {1: 1.0})
    sizes = sizes_to_time(job.batch_size, job.smallest)
    halves = 1 if spec.server_cores is not None else plan.num_devices  # how many at a time is known then
    at_once = min(halves, 2 * (os.cpu_count() or 1))  # more share, and are not measured
    return _once(
        ("server", job.model, sizes, at_once, private, device),
        lambda: profile_server(job.model, sizes, RUNS, device, at_once, private),
    )


def average_seconds(spec: ModelSpec) -> float:
    """Seconds in which rank 0 adds a byte of a network to an average, on this machine."""
    return _once(("average", spec), lambda: _average_seconds(spec))


def _average_seconds(spec: ModelSpec) -> float:
    with torch.random.fork_rng(devices=[]):
        state = build_model(spec).state_dict()
    states, found = [state, state], list[float]()
    for _ in range(AVERAGES):
        began = time.perf_counter()
        weighted_average(states, [1, 1])
        found.append(time.perf_counter() - began)
    return min(found) / (len(states) * num_bytes(state))
