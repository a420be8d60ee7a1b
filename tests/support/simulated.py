"""Simulations of VGG5 on tiny images, with unit times that were made up."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from pipar_rpc import hydra_compose
from pipar_rpc.compression.models import ExactModel
from pipar_rpc.plan.node import Node
from pipar_rpc.plan.simulation_plan import SimulationPlan, make_simulation_plan
from pipar_rpc.selector.facts import DeviceFacts, Facts, ServerFacts
from pipar_rpc.selector.facts_file import write_facts
from pipar_rpc.selector.sizes import unit_sizes
from pipar_rpc.simulation.fleet import Fleet, draw_fleet
from pipar_rpc.simulation.job import make_world
from pipar_rpc.simulation.steps import latency_of
from pipar_rpc.simulation.training import World
from pipar_rpc.testbed.unit_times import UnitTimes

OPTIONS = (
    *("data=synthetic", "data.image_size=8", "data.train_size_per_device=25", "batch_size=10", "epochs=1"),
    *("pipeline.split_point=2", "pipeline.num_micro_batches=4", "simulation.scan=false"),
)
NODE = Node(Path("nowhere"), "nowhere", False, torch.device("cpu"))
CORES = 2.0


@cache
def _composed() -> DictConfig:
    raw, _ = hydra_compose.compose(["node.download=false", *OPTIONS])
    OmegaConf.set_struct(raw, False)  # as the prefix ++ of settings of single devices does
    return raw


def simulation_plan(*overrides: str) -> SimulationPlan:
    """The plan of a job; composed once, for plain keys need no Hydra."""
    raw = OmegaConf.merge(_composed(), OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(raw, DictConfig)
    return make_simulation_plan(raw, Path("nowhere"))


def made_up_facts(message_s: float = 0.0, server_updates: bool = True) -> Facts:
    """Units of which each takes another time; the server is five times as fast."""
    plan, rng = simulation_plan(), np.random.default_rng(1)

    def units(factor: float) -> list[UnitTimes]:
        found = []
        for unit in plan.network.units:
            one, ten, back = (factor * rng.uniform(0.01, 0.1) for _ in range(3))
            forward, backward = {2: one, 10: one + ten}, {2: back, 10: 4 * back}
            found.append(UnitTimes(unit.name, forward, backward, factor * rng.uniform(0.001, 0.01)))
        return found

    sizes = unit_sizes(plan.kinds[0].job.model, ExactModel())
    device = DeviceFacts(units(1.0), 10.0, 25.0, 0.0, 0.0, 10, 2, 3)
    there = [replace(unit, update=unit.update * server_updates) for unit in units(0.2)]
    server = ServerFacts(there, {1: CORES}, message_s, message_s / CORES)
    return Facts([device], server, sizes)


def made_up(folder: Path, message_s: float = 0.0, server_updates: bool = True) -> str:
    """An override that has a simulation take these times."""
    path = folder / "facts.yaml"
    write_facts(path, made_up_facts(message_s, server_updates))
    return f"simulation.facts={path}"


def world_and_fleet(*overrides: str) -> tuple[SimulationPlan, World, Fleet]:
    """A simulation in which averages take no time."""
    plan = simulation_plan(*overrides)
    return plan, replace(make_world(plan, NODE), average_s=0.0), draw_fleet(plan)


def stage_seconds(world: World, fleet: Fleet, index: int, size: int) -> dict[str, list[float]]:
    """What an iteration of one device takes, as plain lists of seconds."""
    kind = world.kinds[fleet.kind[index]]
    shape, slow = kind.shape(size), fleet.slowdown[index]
    up, down = (
        (kind.job.uplink.rate.mbps[0] * fleet.uplink[index]),
        (kind.job.downlink.rate.mbps[0] * fleet.downlink[index]),
    )
    latency = latency_of(fleet, world.kinds)[:, index]
    return {
        "forward": (shape.forward * slow + shape.submit_s).tolist(),
        "uplink": (shape.uplink / up).tolist(),
        "server": shape.server.tolist(),
        "downlink": (shape.downlink / down).tolist(),
        "backward": (shape.backward * slow).tolist(),
        "latency": latency.tolist(),
        "update": [shape.update_s * slow],
        "server_update": [shape.server_update_s],
        "samples": shape.samples.tolist(),
    }
