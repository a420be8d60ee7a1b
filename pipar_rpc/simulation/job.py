"""One simulated job, from its plan to its row of the table and what its picture needs."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipar_rpc.plan.node import Node
from pipar_rpc.plan.simulation_plan import SimulationPlan
from pipar_rpc.results.simulation import SimulatedJob
from pipar_rpc.results.simulation_figures import Cut
from pipar_rpc.simulation.bounds import busy_seconds
from pipar_rpc.simulation.epochs import Epochs
from pipar_rpc.simulation.fleet import draw_fleet
from pipar_rpc.simulation.kinds import halves_at_once
from pipar_rpc.simulation.lines import Line
from pipar_rpc.simulation.recording import average_seconds, record_kinds
from pipar_rpc.simulation.row import make_row, own_seconds
from pipar_rpc.simulation.scan import best, scan, tried
from pipar_rpc.simulation.steps import Lines
from pipar_rpc.simulation.training import World

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Simulated:
    """What a job would take, in emulated seconds.

    Attributes:
        row: row of the table.
        own_s: training and uploads of each device that trained, in each epoch.
        busy_s: seconds of an epoch for which each resource is needed.
        cuts: what was tried for P and N.
    """

    row: SimulatedJob
    own_s: Sequence[float]
    busy_s: Mapping[str, float]
    cuts: Sequence[Cut]


def make_world(plan: SimulationPlan, node: Node) -> World:
    """Records what is not known, and puts together what stays the same through a simulation."""
    spec, strategy = plan.spec, plan.settings.strategy
    kinds = record_kinds(plan, node.device)
    first = kinds[0]
    typical = first.batch_size / first.cut[1]
    pairs = [*((kind.job.uplink.rate, kind.job.downlink.rate) for kind in kinds), *spec.traces]
    up, down = ([Line(trace) for trace in way] for way in zip(*pairs, strict=True))
    return World(
        kinds=kinds,
        lines=Lines(up, down),
        strategy=strategy,
        num_servers=plan.num_servers,
        cores=halves_at_once(first.known.server, typical),
        average_s=average_seconds(first.job.model) * spec.server_slowdown,
        aggregates=plan.settings.aggregation_every != 0,
        max_micro_batches=spec.max_micro_batches,
    )


def simulate(plan: SimulationPlan, node: Node, number: int = 0) -> Simulated:
    """Simulates a job.

    Args:
        plan: plan of the job.
        node: this machine.
        number: number of the job within a sweep.

    Raises:
        UserError: a file cannot be used.
        PeerError: too few devices are left.
    """
    world, fleet = make_world(plan, node), draw_fleet(plan)
    found = scan(plan, world, fleet) if plan.spec.scan or plan.selector.profile_iterations else []
    if found and plan.selector.profile_iterations:
        chosen = best(found)
        log.info("P=%d and N=%d for all devices, the best of those tried", *chosen[:2])
        world = world.with_cut(*chosen[:2])
    began = time.monotonic()
    epochs = list(Epochs(plan, world, fleet).run())
    seconds = time.monotonic() - began
    row = make_row(plan, world, fleet, epochs)._replace(job=number, computed_in_s=seconds)
    if found:
        shortest = best(found)
        row = row._replace(
            best_split_point=shortest.split_point,
            best_num_micro_batches=shortest.num_micro_batches,
            best_gain=tried(plan, world, fleet) / shortest.epoch_s,
        )
    scale = plan.settings.time_scale
    cuts = [Cut(own.split_point, own.num_micro_batches, own.epoch_s * scale) for own in found]
    busy_s = {name: own * scale for name, own in busy_seconds(world, epochs).items()}
    return Simulated(row, (own_seconds(epochs) * scale).tolist(), busy_s, cuts)
