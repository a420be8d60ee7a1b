"""The command: `torchrun --nproc-per-node=5 -m pipar_rpc [Hydra overrides]`.

Rank 0 is the server: it alone runs Hydra and drives. The other ranks are devices: they join the group, take
what rank 0 places on them, and read only the `node.` keys of the command line. Started without torchrun, the
command checks the configuration and then starts torchrun on this machine, with one process per device.

Exit codes: 0 done, 1 failed, 2 the configuration or the data need mending, 75 a device has come back and
torchrun is to start all ranks again, 130 interrupted.
"""

import json
import logging
import os
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipar_rpc import composition, experiment, interface, resuming, session
from pipar_rpc import config as configuration
from pipar_rpc.display import summary_table, sweep_table
from pipar_rpc.errors import ConfigError, PeerError, RegroupError, UserError, first_line
from pipar_rpc.meeting import BEAT_S, Meeting
from pipar_rpc.node import Node, prepare
from pipar_rpc.plan import Plan, make_plan
from pipar_rpc.saving import needed_bytes
from pipar_rpc.schema import NodeConfig
from pipar_rpc.session import Session
from pipar_rpc.sinks import Row
from pipar_rpc.storage import check_room
from pipar_rpc.worker import repeating

log = logging.getLogger("pipar_rpc")

DEFAULT_NUM_DEVICES = 4
REGROUP_CODE = 75  # torchrun starts all ranks again
FOLDER = "folder"
FOLDER_KEYS = ("hydra.run.dir=", "hydra.sweep.dir=")


@dataclass(frozen=True)
class World:
    """This process's place among those that torchrun started."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @classmethod
    def from_environment(cls) -> "World":
        """Reads the variables that torchrun sets."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def one_machine(self) -> bool:
        """Whether all ranks run here."""
        return self.size == self.local_size


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
    _tell_torchrun(message)
    return code


def _tell_torchrun(message: str) -> None:
    """Has torchrun repeat an error as the root cause in the report that it prints when a rank fails."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


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
        resuming.named(make_plan(raw, num_devices + 1, node.data_path, one_machine=True))
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
    folder, goes_on = _folder(arguments, raw, multirun, world, meeting)
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
        jobs = _Jobs(local, world, goes_on, group, sockets)
        composition.run_jobs(jobs.run, folder)
        group.exit_code = jobs.finish()
    return group.exit_code


def _folder(
    arguments: Sequence[str], raw: DictConfig, multirun: bool, world: World, meeting: Meeting | None
) -> tuple[Path, bool]:
    """Where results go, and whether an earlier run or sweep goes on there."""
    folder = meeting.recall(FOLDER) if meeting else None
    if folder is not None:  # torchrun has started the workers again
        return Path(folder), True
    new = composition.run_folder(arguments)
    if raw.resume != resuming.AUTO:
        return new, False
    chosen = any(argument.lstrip("+").startswith(FOLDER_KEYS) for argument in arguments)
    earlier = resuming.earlier_run(new, _resolved(raw, world), multirun, chosen)
    if earlier is None:
        log.info("resume=auto: nothing to resume in %s", new.parent)
    return earlier or new, earlier is not None


def _prepare(config: NodeConfig, world: World) -> Node:
    role = session.worker_name(world.rank)
    form = f"[%(asctime)s][rank {world.rank} {role}][%(levelname)s] %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)
    return prepare(config, world.local_rank)


def _bind(config: NodeConfig, world: World) -> str:
    """Has RPC listen on one interface; returns which."""
    return interface.bind(config.interface, world.one_machine, config.trusted_network, config.allow_public)


class _Jobs:
    """Runs the jobs that Hydra composes and remembers how each ended."""

    def __init__(self, local: Node, world: World, goes_on: bool, group: Session, sockets: str) -> None:
        self._local, self._world, self._goes_on, self._group = local, world, goes_on, group
        self._sockets = sockets
        self._regroups = False
        self._done: dict[Path, Row] = {}
        self._failed: dict[Path, Exception] = {}

    def run(self, raw: DictConfig, output_dir: Path, number: int) -> None:
        """One job; a failure is shown and remembered, so that it does not stop the others of a sweep."""
        if self._regroups:
            return
        if not self._done and not self._failed:
            log.info(self._sockets)
        try:
            if output_dir in self._done or output_dir in self._failed:
                taken, output_dir = output_dir, output_dir / f"job {number}"
                raise ConfigError("hydra.sweep.subdir", taken.name, "another folder for each job")
            plan = make_plan(raw, self._world.size, self._local.data_root, self._world.one_machine)
            rows = self._run(raw, plan, output_dir, number)
        except RegroupError as error:
            log.warning("%s", error)
            self._regroups = True
        except KeyboardInterrupt:
            hint = "; the same command with resume=auto goes on from the last checkpoint"
            raise KeyboardInterrupt(f"interrupted{hint if raw.checkpoint.every else ''}") from None
        except (UserError, PeerError) as error:
            log.error("pipar_rpc: error: %s", error)
            self._failed[output_dir] = error
        except Exception as error:
            log.exception("pipar_rpc: job failed")
            self._failed[output_dir] = error
        else:
            print(f"\n{summary_table(rows)}\n\nresults:     {output_dir}", flush=True)
            print(f"TensorBoard: tensorboard --logdir {shlex.quote(str(output_dir))}\n", flush=True)
            self._done[output_dir] = rows[-1]

    def _run(self, raw: DictConfig, plan: Plan, output_dir: Path, number: int) -> list[Row]:
        config = _resolved(raw, self._world)
        different = resuming.difference(config, output_dir) if self._goes_on else None
        if different not in {None, resuming.CONFIG} and raw.resume == resuming.AUTO:
            raise UserError(f"resume=auto: another training is in {output_dir}: {different} differs")
        return experiment.run(
            *(plan, self._local, output_dir, number, self._goes_on and different is None, self._group),
            on_begin=lambda: OmegaConf.save(config, output_dir / resuming.CONFIG),
        )

    def finish(self) -> int:
        """Sums up a sweep and returns the exit code."""
        if self._regroups:
            return REGROUP_CODE
        if len(self._done) + len(self._failed) > 1:
            root = Path(os.path.commonpath([*self._done, *self._failed]))
            print(
                *sweep_table({str(path.relative_to(root)): row for path, row in self._done.items()}), sep="\n"
            )
            for path, error in self._failed.items():
                print(f"failed: {path.relative_to(root)}: {first_line(error)}")
            print(f"{len(self._done)} jobs done, {len(self._failed)} failed", flush=True)
        if not self._failed:
            return 0
        _tell_torchrun("\n".join(f"{path.name}: {error}" for path, error in self._failed.items()))
        return 2 if all(isinstance(error, UserError) for error in self._failed.values()) else 1


def _resolved(raw: DictConfig, world: World) -> DictConfig:
    """The whole configuration, as config.yaml has it."""
    config = OmegaConf.merge(raw, {"num_devices": raw.num_devices or world.size - 1})
    OmegaConf.resolve(config)
    assert isinstance(config, DictConfig)
    return config


if __name__ == "__main__":
    main()
