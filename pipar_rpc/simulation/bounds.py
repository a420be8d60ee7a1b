"""Where the server becomes the bottleneck, and what bounds an epoch, by the work of each resource."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipar_rpc.simulation.epochs import EpochTimes
from pipar_rpc.simulation.fleet import Fleet, classes_of, iterations_of, last_sizes
from pipar_rpc.simulation.kinds import Shape
from pipar_rpc.simulation.one_half import server_seconds
from pipar_rpc.simulation.steps import make_part
from pipar_rpc.simulation.training import World

MANY = 10**6  # samples, of which a merged micro-batch takes as long as any number in proportion


def capacity(world: World) -> float:
    """Core seconds of all server processes in a second: a half that all devices share is on one core."""
    cores = 1.0 if world.strategy.shared_half else world.cores
    return cores * world.num_servers


def server_bound(world: World, fleet: Fleet) -> float | None:
    """The number of devices at the same time from which on the server's time bounds an epoch.

    With so many devices, the server needs as long for the work of all of them as the slowest one's epoch
    lasts if it has the server to itself (asymptotic bounds of closed queueing networks: Denning and Buzen,
    The operational analysis of queueing network models, ACM Computing Surveys, 1978). None where devices do
    not use the server at the same time.

    Args:
        world: what stays the same.
        fleet: all devices.
    """
    crosses = np.array([not kind.alone for kind in world.kinds])
    if world.strategy.in_turn or not crosses[fleet.kind].any():
        return None
    iterations, last = iterations_of(fleet, world.kinds), last_sizes(fleet, world.kinds)
    classes = classes_of(fleet, iterations, last, grouped=True)
    whole = make_part(classes, world.kinds, world.lines, 0.0, 1).whole
    crossing = crosses[classes.fleet.kind]
    once = np.where(crossing, whole.alone_ends(whole.zeros), whole.device_s())
    work = server_seconds(whole)
    if world.strategy.merged:
        work = whole.one(lambda shape: _merged_s(world, shape))
    weight = classes.fleet.weight * crossing
    each = float(weight @ (work * classes.iterations)) / float(classes.fleet.weight.sum())
    return capacity(world) * float((once * classes.iterations).max()) / each if each else None


def _merged_s(world: World, shape: Shape) -> float:
    """Core seconds that a device adds to the iterations of a half with many devices."""
    sample_s = world.kinds[0].merged_s(MANY) / MANY
    return sample_s * float(shape.samples.sum()) + float(shape.coding.sum())


def busy_seconds(world: World, epochs: Sequence[EpochTimes]) -> Mapping[str, float]:
    """Seconds of an epoch for which each resource is needed, mean over the epochs.

    Of devices and links what the median devices of its rounds need, one round after the other; of the server
    all work on all cores. Devices that train in turn need theirs one after the other.
    """

    def needed(name: str) -> float:
        return float(np.mean([own.needed_s[name] for own in epochs]))

    return {
        "device": needed("device_s"),
        "uplink": needed("uplink_s"),
        "server": float(np.mean([own.work_s for own in epochs])) / capacity(world),
        "downlink": needed("downlink_s"),
    }
