"""The row of a simulated job: its figures, each defined once."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipar_rpc.plan.simulation_plan import SimulationPlan
from pipar_rpc.results.simulation import SimulatedJob
from pipar_rpc.simulation.bounds import busy_seconds, capacity, server_bound
from pipar_rpc.simulation.epochs import EpochTimes, median_s
from pipar_rpc.simulation.fleet import Fleet
from pipar_rpc.simulation.training import World
from pipar_rpc.timing.stage_recurrence import Array


def own_seconds(epochs: Sequence[EpochTimes]) -> Array:
    """Training and uploads of each device that trained, in each epoch."""
    return np.concatenate([own.own_s[own.iterations > 0] for own in epochs])


def make_row(plan: SimulationPlan, world: World, fleet: Fleet, epochs: Sequence[EpochTimes]) -> SimulatedJob:
    """Makes the row, in emulated seconds; without what was searched for.

    Args:
        plan: plan of the job.
        world: what stays the same.
        fleet: all devices.
        epochs: what the epochs took.
    """
    labels, kind = plan.labels, world.kinds[0]
    settings = {
        "strategy": labels.strategy,
        "server_half": world.strategy.server_half,
        "model": labels.model,
        "data": labels.data,
        "network": labels.network,
        "testbed": labels.testbed,
    }
    sizes = {
        "num_devices": plan.num_devices,
        "num_servers": plan.num_servers,
        "server_cores": capacity(world) / plan.num_servers,
        "split_point": kind.cut[0],
        "num_micro_batches": kind.cut[1],
        "batch_size": kind.batch_size,
        "epochs": len(epochs),
    }
    none = dict.fromkeys(("best_split_point", "best_num_micro_batches", "best_gain"))
    values = {**settings, **sizes, **_times(plan, epochs), **_devices(epochs), **_shares(world, epochs)}
    bound = {"server_bound_devices": server_bound(world, fleet)}
    every: Mapping[str, object] = {**values, **bound, **none, "job": 0, "computed_in_s": 0.0}
    return SimulatedJob._make(every[name] for name in SimulatedJob._fields)


def _times(plan: SimulationPlan, epochs: Sequence[EpochTimes]) -> dict[str, float]:
    """The columns that are times."""
    seconds, own_s = np.array([own.seconds for own in epochs]), own_seconds(epochs)
    iterations, training_s, device_s = (
        np.concatenate([getattr(own, name)[own.iterations > 0] for own in epochs])
        for name in ("iterations", "training_s", "device_s")
    )
    idle = np.repeat(seconds, [int((own.iterations > 0).sum()) for own in epochs]) - device_s
    found = {
        "epoch_time_s": np.median(seconds),
        "epoch_time_p95_s": np.percentile(seconds, 95),
        "iteration_time_s": _mean(training_s / iterations),
        "own_time_s": np.median(own_s) if len(own_s) else 0.0,
        "own_time_p95_s": np.percentile(own_s, 95) if len(own_s) else 0.0,
        "server_idle_s": _mean(seconds - np.array([own.busy_s for own in epochs])),
        "device_idle_s": _mean(idle),
    }
    return {name: float(value) * plan.settings.time_scale for name, value in found.items()}


def _devices(epochs: Sequence[EpochTimes]) -> dict[str, float]:
    """The columns that count devices and iterations."""
    iterations = np.concatenate([own.iterations[own.iterations > 0] for own in epochs])
    return {
        "devices_trained": _mean(np.array([float((own.iterations > 0).sum()) for own in epochs])),
        "devices_lost": _mean(np.array([float(own.lost) for own in epochs])),
        "iterations": _mean(iterations.astype(float)),
        "simulated_iterations": max(own.simulated for own in epochs),
    }


def _shares(world: World, epochs: Sequence[EpochTimes]) -> dict[str, object]:
    """How much of an epoch each resource is used, and which is needed longest."""
    busy, mean_s = busy_seconds(world, epochs), _mean(np.array([own.seconds for own in epochs]))
    used_s = {
        name: _mean(np.array([median_s(own, f"{name}_s") for own in epochs]))
        for name in busy
        if name != "server"
    }
    used_s["server"] = busy["server"]
    used: dict[str, object] = {f"{name}_utilisation": own / mean_s for name, own in used_s.items()}
    return used | {"bottleneck": max(busy, key=lambda name: busy[name])}


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0
