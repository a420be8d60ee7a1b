"""The command: `torchrun --nproc-per-node=5 -m pipar_rpc [Hydra overrides]`.

Rank 0 is the server: it alone runs Hydra and drives. The other ranks are devices: they join the group, take
what rank 0 places on them, and read only the `node.` keys of the command line. Started without torchrun, the
command checks the configuration and then starts torchrun on this machine, with one process per device.

Exit codes: 0 done, 1 failed, 2 the configuration or the data need mending, 130 interrupted.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipar_rpc import config as configuration
from pipar_rpc import experiment, interface, session
from pipar_rpc.display import summary_table, table
from pipar_rpc.errors import PeerError, UserError, nearest
from pipar_rpc.node import Node, prepare
from pipar_rpc.plan import Plan, make_plan
from pipar_rpc.sinks import Row

log = logging.getLogger("pipar_rpc")

DEFAULT_NUM_DEVICES = 4
HYDRA_VERSION = "1.3"
INFO_FLAGS = {
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
}


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


def config_dir() -> Path:
    """conf/: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "conf"


def main() -> None:
    """Runs the command and exits with its code."""
    # argparse, and so Hydra, takes overrides on one side of a flag only: put --multirun first
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("--multirun", "-m"))
    try:
        code = _run(sys.argv[1:])
    except UserError as error:
        print(f"pipar_rpc: error: {error}", file=sys.stderr)
        code = 2
    except PeerError as error:
        print(f"pipar_rpc: error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("pipar_rpc: interrupted", file=sys.stderr)
        code = 130
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # after an error, threads may still wait inside torch RPC
    sys.exit(0)


def _run(arguments: Sequence[str]) -> int:
    informs = not INFO_FLAGS.isdisjoint(argument.split("=")[0] for argument in arguments)
    if "RANK" not in os.environ and not informs:
        return _start_torchrun(arguments)
    world = World.from_environment() if "RANK" in os.environ else World(0, 1, 0, 1)
    if world.rank == 0:
        ConfigStore.instance().store("schema", configuration.Config)
        return _hydra(lambda raw: None) if informs else _serve(arguments, world)
    return 0 if informs else _assist(arguments, world)


def _start_torchrun(arguments: Sequence[str]) -> int:
    """Checks the configuration and replaces this process by torchrun with one process per device."""
    ConfigStore.instance().store("schema", configuration.Config)
    raw, multirun = _compose(arguments)
    num_devices = raw.num_devices or DEFAULT_NUM_DEVICES
    if not multirun:
        make_plan(raw, num_devices + 1, configuration.node_of(raw).data_path, one_machine=True)
    torchrun = ["-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={num_devices + 1}"]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "pipar_rpc", *arguments])


def _assist(arguments: Sequence[str], world: World) -> int:
    """A device rank: waits for what rank 0 places here until it is dismissed."""
    config = configuration.parse_node(arguments)
    local = _prepare(config, world)
    with session.join(world.rank, world.size, local, config.join_timeout_s) as group:
        group.serve()
    return 0


def _serve(arguments: Sequence[str], world: World) -> int:
    """Rank 0: checks everything first, then runs the job or the jobs inside one RPC group."""
    raw, multirun = _compose(arguments)
    config = configuration.node_of(raw)
    local = _prepare(config, world)
    if not multirun:
        make_plan(raw, world.size, local.data_root, world.one_machine)
    with session.join(world.rank, world.size, local, config.join_timeout_s) as group:
        group.check_versions()
        jobs = _Jobs(group, local, world)
        _hydra(jobs.run)
    return jobs.finish()


def _prepare(config: configuration.NodeConfig, world: World) -> Node:
    role = session.worker_name(world.rank)
    form = f"[%(asctime)s][rank {world.rank} {role}][%(levelname)s] %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)
    interface.bind(config.interface, world.one_machine, config.allow_public)
    return prepare(config, world.local_rank)


class _Jobs:
    """Runs the jobs that Hydra composes and remembers how each ended."""

    def __init__(self, group: session.Session, local: Node, world: World) -> None:
        self._group, self._local, self._world = group, local, world
        self._done: list[tuple[str, Row]] = []
        self._failed: list[Exception] = []

    def run(self, raw: DictConfig) -> None:
        """One job; a failure is shown and remembered, so that it does not stop the others of a sweep."""
        hydra_config = HydraConfig.get()
        output_dir = Path(hydra_config.runtime.output_dir)
        job = 0 if OmegaConf.is_missing(hydra_config.job, "num") else hydra_config.job.num
        try:
            plan = make_plan(raw, self._world.size, self._local.data_root, self._world.one_machine)
            _save_config(raw, plan, output_dir / "config.yaml")
            rows = experiment.run(plan, self._group, self._local, output_dir, job)
        except (UserError, PeerError) as error:
            log.error("pipar_rpc: error: %s", error)
            self._failed.append(error)
        except Exception as error:
            log.exception("pipar_rpc: job failed")
            self._failed.append(error)
        else:
            print(f"\n{summary_table(rows)}\n\nresults:     {output_dir}", flush=True)
            print(f"TensorBoard: tensorboard --logdir {_quoted(output_dir)}\n", flush=True)
            self._done.append((output_dir.name, rows[-1]))

    def finish(self) -> int:
        """Sums up a sweep and returns the exit code."""
        if len(self._done) + len(self._failed) > 1:
            headings = ["job", "epoch time s", "loss", "test acc"]
            lines = [
                [
                    name,
                    f"{row['epoch_time_s']:.2f}",
                    f"{row['train_loss']:.4f}",
                    _number(row["test_accuracy"]),
                ]
                for name, row in self._done
            ]
            print("last epoch of each job:", *table(headings, lines), sep="\n")
            print(f"{len(self._done)} jobs done, {len(self._failed)} failed", flush=True)
        if not self._failed:
            return 0
        return 2 if all(isinstance(error, UserError) for error in self._failed) else 1


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _quoted(path: Path) -> str:
    return f"'{path}'" if " " in str(path) else str(path)


def _save_config(raw: DictConfig, plan: Plan, path: Path) -> None:
    resolved = OmegaConf.merge(raw, {"num_devices": plan.config.num_devices})
    OmegaConf.save(resolved, path, resolve=True)


def _hydra(task: Callable[[DictConfig], None]) -> int:
    hydra.main(version_base=HYDRA_VERSION, config_path=str(config_dir()), config_name="config")(task)()
    return 0


def _compose(arguments: Sequence[str]) -> tuple[DictConfig, bool]:
    """Composes what the command line says, before Hydra writes anything; for a sweep, its first job.

    Returns:
        The configuration, and whether it is a sweep.

    Raises:
        UserError: unknown key or choice, or a value of the wrong type; in any value of a sweep.
    """
    args = get_args_parser().parse_args(list(arguments))
    extra = [f"hydra.searchpath=[file://{Path(args.config_dir).resolve()}]"] if args.config_dir else []
    with hydra.initialize_config_dir(str(config_dir()), version_base=HYDRA_VERSION):
        try:
            loader = GlobalHydra.instance().config_loader()
            overrides = OverridesParser.create(loader).parse_overrides(args.overrides)
            choices = [_values(override) for override in overrides]
            first = [values[0] for values in choices]
            composed = hydra.compose("config", [*extra, *first], return_hydra_config=True)
            for index, values in enumerate(choices):
                for value in values[1:]:
                    hydra.compose("config", [*extra, *first[:index], value, *first[index + 1 :]])
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error)) from error
    multirun = bool(args.multirun) or composed.hydra.mode == RunMode.MULTIRUN
    swept = [values for values in choices if len(values) > 1]
    if swept and not multirun:
        raise UserError(f"{swept[0][0].split('=')[0]}: several values need --multirun")
    with open_dict(composed):
        del composed["hydra"]
    return composed, multirun


def _values(override: Override) -> list[str]:
    """An override as the overrides of the single jobs that it stands for."""
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    interval = override.value()
    if isinstance(interval, IntervalSweep):  # for sweepers that choose the values themselves
        return [f"{key}={interval.start}"]
    return [str(override.input_line)]


def _explain(error: Exception) -> str:
    """A composition error as one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: no such choice: {nearest(name, error.options)}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return configuration.one_line(error.__cause__)
    if isinstance(error, OmegaConfBaseException):
        return configuration.one_line(error)
    return str(error).splitlines()[0]


if __name__ == "__main__":
    main()
