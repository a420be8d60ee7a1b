"""The command: `torchrun --nproc-per-node=5 -m pipar_rpc [Hydra overrides]`.

Rank 0 is the server: it alone runs Hydra and drives. The other ranks are devices: they join the group, take
what rank 0 places on them, and read only the `node.` keys of the command line, and on one machine those that
rank 0 found in the configuration's files. Started without torchrun, the command checks the configuration and
then starts torchrun on this machine, with one process per device.

Exit codes: 0 done, 1 failed, 2 the configuration or the data need mending, 75 a device has come back and
torchrun is to start all ranks again, 130 interrupted.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pipar_rpc
from pipar_rpc import composition, interface, replacing, session
from pipar_rpc import config as configuration
from pipar_rpc.errors import PeerError, UserError
from pipar_rpc.jobs import FOLDER, Jobs, World, examine, tell_torchrun
from pipar_rpc.meeting import BEAT_S, Meeting
from pipar_rpc.node import Node, prepare
from pipar_rpc.schema import NodeConfig
from pipar_rpc.storage import alone_in
from pipar_rpc.worker import end_with, repeating

log = logging.getLogger("pipar_rpc")

DEFAULT_NUM_DEVICES = 4
NODE = "node"


def main() -> None:
    """Runs the command and exits with its code, even if nobody can be told how it ended."""
    code, message = _outcome()
    told = False
    try:
        if message:
            tell_torchrun(message)
            print(f"pipar_rpc: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        told = True
    finally:  # after an error, threads may still wait inside torch RPC; Python itself flushes once more
        if code or not told:
            os._exit(code)
    sys.exit(0)


def command() -> None:
    """The installed command `pipar_rpc`, which finds networks in the current folder as `python -m` does."""
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    main()


def _outcome() -> tuple[int, str]:
    """The exit code, and the last line of the process."""
    try:
        sys.argv[1:] = composition.normalise(sys.argv[1:])
        return _run(sys.argv[1:]), ""
    except UserError as error:
        return 2, f"error: {error}"
    except PeerError as error:
        return 1, f"error: {error}"
    except KeyboardInterrupt as error:
        return 130, str(error) or "interrupted"
    except Exception:
        return 1, traceback.format_exc()


def _run(arguments: Sequence[str]) -> int:
    informs = composition.only_informs(arguments)
    if "RANK" not in os.environ and not informs:
        return _start_torchrun(arguments)
    world = World.from_environment() if "RANK" in os.environ else World(0, 1, 0, 1)
    if informs:
        if composition.MULTIRUN in arguments:
            raise UserError("--multirun: leave it out to be shown something")
        if world.rank == 0:
            composition.run_jobs(lambda raw, output_dir, number: None)
        return 0
    if "TORCHELASTIC_RUN_ID" in os.environ:
        why = f"torchrun, process {pipar_rpc.PARENT}, is gone; what was saved stays"
        end_with(pipar_rpc.PARENT, f"pipar_rpc: error: rank {world.rank} ends: {why}")
    return _serve(arguments, world) if world.rank == 0 else _assist(arguments, world)


def _start_torchrun(arguments: Sequence[str]) -> int:
    """Checks all that rank 0 will, and replaces this process by torchrun with enough ranks for every job."""
    jobs, multirun = composition.compose_all(arguments)
    raw, num_devices = jobs[0], max(job.num_devices or DEFAULT_NUM_DEVICES for job in jobs)
    server, config = World(0, num_devices + 1, 0, num_devices + 1), configuration.node_of(raw)
    local = prepare(config, server.rank, server.local_rank)
    _bind(config, server)
    examine(arguments, raw, multirun, server, local, None)
    torchrun = ["-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={num_devices + 1}"]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "pipar_rpc", *arguments])


def _assist(arguments: Sequence[str], world: World) -> int:
    """A device rank: waits for what rank 0 places here until it is dismissed."""
    config = configuration.parse_node(arguments)
    meeting = Meeting.from_environment(world.rank, config.timeout_s)
    if meeting is not None:
        config = configuration.parse_node(arguments, json.loads(meeting.expect(NODE)))
        meeting.timeout_s = config.timeout_s
    local = _prepare(config, world)
    listening = _bind(config, world)
    if meeting is not None and not meeting.attend():
        log.info("the training has ended without this device")
        return 0
    with session.join(world.rank, world.size, local, config.timeout_s, meeting, listening) as group:
        return group.serve()


def _serve(arguments: Sequence[str], world: World) -> int:
    """Rank 0: checks everything first, then runs the job or the jobs inside one RPC group."""
    raw, multirun = composition.compose(arguments)
    config = configuration.node_of(raw)
    local, listening = _prepare(config, world), _bind(config, world)
    meeting = Meeting.from_environment(world.rank, config.timeout_s)
    _share_node(configuration.node_in_files(raw, arguments), world, meeting)
    folder, goes_on = examine(arguments, raw, multirun, world, local, meeting)
    with ExitStack() as stack:
        if meeting is not None:
            meeting.gather()
            stack.enter_context(repeating(BEAT_S, meeting.beat))
        group = stack.enter_context(
            session.join(world.rank, world.size, local, config.timeout_s, meeting, listening)
        )
        group.meet()
        stack.enter_context(alone_in(folder))
        if raw.overwrite and not goes_on:
            replacing.set_aside(folder, multirun)
        if meeting is not None:
            meeting.remember(FOLDER, str(folder))  # from here on, a restart goes on
        jobs = Jobs(local, world, folder, goes_on, group, interface.who_can_connect(listening))
        composition.run_jobs(jobs.run, folder)
        group.exit_code = jobs.finish()
    return group.exit_code


def _share_node(in_files: dict[str, Any], world: World, meeting: Meeting | None) -> None:
    """Hands the node keys of the configuration's files to the devices of this machine."""
    if meeting is not None:
        meeting.remember(NODE, json.dumps(in_files if world.one_machine else {}))
    if in_files and (meeting is None or not world.one_machine):
        keys = ", ".join(f"node.{key}" for key in in_files)
        log.warning("%s: read by rank 0 only: set it on the command line of every machine too", keys)


def _prepare(config: NodeConfig, world: World) -> Node:
    role = session.worker_name(world.rank)
    form = f"[%(asctime)s][rank {world.rank} {role}][%(levelname)s] %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)
    return prepare(config, world.rank, world.local_rank)


def _bind(config: NodeConfig, world: World) -> interface.Binding:
    """Has RPC listen on one interface; returns where."""
    return interface.bind(config.interface, world.one_machine, config.trusted_network, config.allow_public)


if __name__ == "__main__":
    main()
