"""The command: `torchrun --nproc-per-node=5 -m pipar_rpc [Hydra overrides]`.

Rank 0 is the server: it alone runs Hydra and drives. The other ranks are devices: they join the group, take
what rank 0 places on them, and read only the `node.` keys of the command line. Started without torchrun, the
command checks the configuration and then starts torchrun on this machine, with one process per device.

Exit codes: 0 done, 1 failed, 2 the configuration or the data need mending, 75 a device has come back and
torchrun is to start all ranks again, 130 interrupted.
"""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack

from pipar_rpc import composition, interface, resuming, session
from pipar_rpc import config as configuration
from pipar_rpc.errors import PeerError, UserError
from pipar_rpc.jobs import FOLDER, Jobs, World, job_folder, tell_torchrun
from pipar_rpc.meeting import BEAT_S, Meeting
from pipar_rpc.node import Node, prepare
from pipar_rpc.plan import make_plan
from pipar_rpc.saving import needed_bytes
from pipar_rpc.schema import NodeConfig
from pipar_rpc.storage import check_room
from pipar_rpc.worker import repeating

log = logging.getLogger("pipar_rpc")

DEFAULT_NUM_DEVICES = 4


def main() -> None:
    """Runs the command and exits with its code."""
    sys.argv[1:] = composition.normalise(sys.argv[1:])
    try:
        code = _run(sys.argv[1:])
    except UserError as error:
        code = _fail(2, f"error: {error}")
    except PeerError as error:
        code = _fail(1, f"error: {error}")
    except KeyboardInterrupt as error:
        code = _fail(130, str(error) or "interrupted")
    except Exception:
        code = _fail(1, traceback.format_exc())
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # after an error, threads may still wait inside torch RPC
    sys.exit(0)


def _fail(code: int, message: str) -> int:
    """Prints the last line of a process."""
    print(f"pipar_rpc: {message}", file=sys.stderr)
    tell_torchrun(message)
    return code


def _run(arguments: Sequence[str]) -> int:
    informs = composition.only_informs(arguments)
    if "RANK" not in os.environ and not informs:
        return _start_torchrun(arguments)
    world = World.from_environment() if "RANK" in os.environ else World(0, 1, 0, 1)
    if informs:
        if set(arguments) & set(composition.MULTIRUN_FLAGS):
            raise UserError("--multirun: leave it out to be shown something")
        if world.rank == 0:
            composition.run_jobs(lambda raw, output_dir, number: None)
        return 0
    return _serve(arguments, world) if world.rank == 0 else _assist(arguments, world)


def _start_torchrun(arguments: Sequence[str]) -> int:
    """Checks the configuration and replaces this process by torchrun with one process per device."""
    raw, multirun = composition.compose(arguments)
    num_devices = raw.num_devices or DEFAULT_NUM_DEVICES
    if not multirun:
        node = configuration.node_of(raw)
        resuming.named(make_plan(raw, num_devices + 1, node.data_path(0), one_machine=True))
    torchrun = ["-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={num_devices + 1}"]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "pipar_rpc", *arguments])


def _assist(arguments: Sequence[str], world: World) -> int:
    """A device rank: waits for what rank 0 places here until it is dismissed."""
    config = configuration.parse_node(arguments)
    local = _prepare(config, world)
    _bind(config, world)
    meeting = Meeting.from_environment(world.rank, config.timeout_s)
    if meeting is not None and not meeting.attend():
        log.info("the training has ended without this device")
        return 0
    with session.join(world.rank, world.size, local, config.timeout_s, meeting) as group:
        return group.serve()


def _serve(arguments: Sequence[str], world: World) -> int:
    """Rank 0: checks everything first, then runs the job or the jobs inside one RPC group."""
    raw, multirun = composition.compose(arguments)
    config = configuration.node_of(raw)
    local = _prepare(config, world)
    plan = None if multirun else make_plan(raw, world.size, local.data_root, world.one_machine)
    listening, port = _bind(config, world), os.environ["MASTER_PORT"]
    meeting = Meeting.from_environment(world.rank, config.timeout_s)
    folder, goes_on = job_folder(arguments, raw, multirun, world, meeting)
    if plan is not None and not goes_on:
        resuming.named(plan)  # refused before anything is started
    check_room(folder, needed_bytes(plan) if plan else 0)
    sockets = f"RPC listens on {listening}; torchrun's store on all addresses, port {port}: shield it"
    with ExitStack() as stack:
        if meeting is not None:
            meeting.remember(FOLDER, str(folder))
            meeting.gather()
            stack.enter_context(repeating(BEAT_S, meeting.beat))
        group = stack.enter_context(session.join(world.rank, world.size, local, config.timeout_s, meeting))
        group.meet()
        jobs = Jobs(local, world, goes_on, group, sockets)
        composition.run_jobs(jobs.run, folder)
        group.exit_code = jobs.finish()
    return group.exit_code


def _prepare(config: NodeConfig, world: World) -> Node:
    role = session.worker_name(world.rank)
    form = f"[%(asctime)s][rank {world.rank} {role}][%(levelname)s] %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)
    return prepare(config, world.rank, world.local_rank)


def _bind(config: NodeConfig, world: World) -> str:
    """Has RPC listen on one interface; returns which."""
    return interface.bind(config.interface, world.one_machine, config.trusted_network, config.allow_public)


if __name__ == "__main__":
    main()
