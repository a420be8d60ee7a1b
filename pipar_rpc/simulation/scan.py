"""The best split point P and number of micro-batches N for all devices, tried on a sample of them.

Each device of the sample stands for many, which share the server's cores as all of them would. Two iterations
of each are simulated. As the selector, this takes the smallest N within 1 % of the best.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pipar_rpc.base.random_streams import sequence
from pipar_rpc.plan.simulation_plan import SimulationPlan
from pipar_rpc.selector.choose import NOISE
from pipar_rpc.simulation.fleet import Fleet, iterations_of, last_sizes
from pipar_rpc.simulation.models import Models
from pipar_rpc.simulation.training import World, train

SAMPLE = 64  # devices
COUNTS = (*range(1, 11), 12, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256)


class Scanned(NamedTuple):
    """One way to cut network and mini-batch.

    Attributes:
        split_point: P.
        num_micro_batches: N.
        epoch_s: real seconds of an epoch of the sample.
    """

    split_point: int
    num_micro_batches: int
    epoch_s: float


def scan(plan: SimulationPlan, world: World, fleet: Fleet) -> list[Scanned]:
    """Tries all P and some N; empty where the strategy leaves nothing to choose.

    Args:
        plan: plan of the job.
        world: what stays the same.
        fleet: all devices.
    """
    strategy = world.strategy
    if strategy.whole_network:
        return []
    num_units = len(plan.network.units)
    most = min(kind.most_micro_batches for kind in world.kinds) if strategy.pipelined else 1
    sample = _sample(plan, fleet)
    points = plan.selector.split_points or range(1, num_units + strategy.pipelined)
    cuts = [
        (point, count)
        for point in points
        for count in COUNTS
        if count <= most and (count == 1 or point < num_units)
    ]
    return [Scanned(*cut, _epoch_s(plan, world.with_cut(*cut), sample)) for cut in cuts]


def best(found: Sequence[Scanned]) -> Scanned:
    """The one whose epoch is shortest; of its P, the smallest N whose epoch is no longer but for noise."""
    shortest = min(found, key=lambda own: own.epoch_s)
    near = [
        own
        for own in found
        if own.split_point == shortest.split_point and own.epoch_s <= (1 + NOISE) * shortest.epoch_s
    ]
    return min(near, key=lambda own: own.num_micro_batches)


def tried(plan: SimulationPlan, world: World, fleet: Fleet) -> float:
    """Real seconds of an epoch of the sample with the cuts that the devices have."""
    return _epoch_s(plan, world, _sample(plan, fleet))


def _sample(plan: SimulationPlan, fleet: Fleet) -> Fleet:
    """Some devices, which stand for those of one server process that train a round."""
    count = len(fleet)
    rng = np.random.default_rng(sequence(plan.settings.seed, "simulation", "sample"))
    some = np.sort(rng.choice(count, min(count, SAMPLE), replace=False))
    together = plan.settings.participation.most(count) / plan.num_servers
    return fleet.take(some).standing_for(together)


def _epoch_s(plan: SimulationPlan, world: World, sample: Fleet) -> float:
    world = replace(world, num_servers=1, max_micro_batches=1)
    iterations, every = iterations_of(sample, world.kinds), plan.settings.aggregation_every
    trained = train(world, sample, iterations, last_sizes(sample, world.kinds), 0.0)
    everyone, models = np.arange(len(sample)), Models(world, sample)
    rounds = -(-int(iterations.max()) // every) if every > 0 else 1
    up_s = models.uploaded(everyone, 0.0, trained.seconds) - trained.seconds
    down_s = models.downloaded(everyone, 0.0, 0.0) * world.aggregates
    if world.strategy.in_turn:
        return float(sample.weight @ (trained.seconds + rounds * (up_s + down_s)))
    moving_s = float((up_s + down_s).max()) + models.average_s(everyone) * world.aggregates
    return max(float(trained.seconds.max()), trained.served_s) + rounds * moving_s
