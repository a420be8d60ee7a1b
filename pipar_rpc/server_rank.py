"""Rank 0, the server: it alone runs Hydra and drives; and what starts the ranks of one machine."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from pipar_rpc import hydra_compose, this_machine
from pipar_rpc.base.command import torchrun_here
from pipar_rpc.base.disk import alone_in
from pipar_rpc.base.errors import UserError
from pipar_rpc.base.ranks import WORKER, World
from pipar_rpc.base.threads import repeating
from pipar_rpc.checkpoints import replacing
from pipar_rpc.device_rank import KIND, NODE, SERVERS
from pipar_rpc.plan import load as configuration
from pipar_rpc.plan.node import prepare
from pipar_rpc.plan.placement import number_of_devices
from pipar_rpc.sweep import FOLDER, Jobs, examine
from pipar_rpc.transport import network_access, rpc_group
from pipar_rpc.transport.rendezvous import BEAT_S, Meeting

log = logging.getLogger("pipar_rpc")

DEFAULT_NUM_DEVICES = 4


def inform(arguments: Sequence[str]) -> int:
    """Has Hydra show what the command line asks for."""
    if hydra_compose.MULTIRUN in arguments:
        raise UserError("--multirun: leave it out to be shown something")
    hydra_compose.run_jobs(lambda raw, output_dir, number: None)
    return 0


def start_torchrun(arguments: Sequence[str]) -> int:
    """Checks all that rank 0 will, and replaces this process by torchrun with enough ranks for every job."""
    jobs, multirun = hydra_compose.compose_all(arguments)
    raw = jobs[0]
    size = max(job.num_servers + _workers_for(job) for job in jobs)
    server, config = World(0, size, 0, size, raw.num_servers), configuration.node_of(raw)
    local = prepare(config, server.device, server.local_rank)
    this_machine.bind(config, server)
    examine(arguments, raw, multirun, server, local, None)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.execv(sys.executable, [*torchrun_here(size), "-m", "pipar_rpc", *arguments])


def _workers_for(job: DictConfig) -> int:
    """Number of ranks to start for a job's devices: one for each, or those that `placement` names."""
    return len(job.placement.devices_per_rank or ()) or job.num_devices or DEFAULT_NUM_DEVICES


def serve(arguments: Sequence[str], world: World) -> int:
    """Rank 0: checks everything first, then runs the job or the jobs inside one RPC group."""
    raw, multirun = hydra_compose.compose(arguments)
    config, world = configuration.node_of(raw), replace(world, num_servers=raw.num_servers)
    local, listening = this_machine.prepare(config, world), this_machine.bind(config, world)
    meeting = Meeting.from_environment(world.rank, config.timeout_s)
    workers = world.size - world.num_servers
    if meeting is not None and number_of_devices(raw, workers) > workers:
        world = replace(world, kind=WORKER)
    share_node(configuration.node_in_files(raw, arguments), world, meeting)
    folder, goes_on = examine(arguments, raw, multirun, world, local, meeting)
    with ExitStack() as stack:
        if meeting is not None:
            meeting.gather()
            stack.enter_context(repeating(BEAT_S, meeting.beat))
        group = stack.enter_context(rpc_group.join(world, local, config.timeout_s, meeting, listening))
        group.meet()
        stack.enter_context(alone_in(folder))
        if raw.overwrite and not goes_on:
            replacing.set_aside(folder, multirun)
        if meeting is not None:
            meeting.remember(FOLDER, str(folder))  # from here on, a restart goes on
        jobs = Jobs(local, world, folder, goes_on, group, network_access.who_can_connect(listening))
        hydra_compose.run_jobs(jobs.run, folder)
        group.exit_code = jobs.finish()
    return group.exit_code


def share_node(in_files: dict[str, Any], world: World, meeting: Meeting | None) -> None:
    """Tells the other ranks their names, and those of this machine the node keys of files."""
    if meeting is not None:
        meeting.remember(KIND, world.kind)
        meeting.remember(SERVERS, str(world.num_servers))
        meeting.remember(NODE, json.dumps(in_files if world.one_machine else {}))
    if in_files and (meeting is None or not world.one_machine):
        keys = ", ".join(f"node.{key}" for key in in_files)
        log.warning("%s: read by rank 0 only: set it on the command line of every machine too", keys)
