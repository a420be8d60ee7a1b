"""The jobs of a run or a sweep: where each writes, how it ended, and what the process's exit code is."""

import logging
import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipar_rpc import hydra_compose, job
from pipar_rpc.base.command import tell_torchrun
from pipar_rpc.base.disk import alone_in, check_room, write_whole
from pipar_rpc.base.errors import ConfigError, PeerError, RegroupError, UserError, first_line, require
from pipar_rpc.base.ranks import World
from pipar_rpc.checkpoints import replacing, resuming
from pipar_rpc.checkpoints.saving import needed_bytes
from pipar_rpc.objective import last_figure
from pipar_rpc.plan.node import Node
from pipar_rpc.plan.placement import number_of_devices
from pipar_rpc.plan.plan import Plan, make_plan
from pipar_rpc.results.columns import Row
from pipar_rpc.results.run_files import CONFIG
from pipar_rpc.results.terminal import summary_table, sweep_table
from pipar_rpc.transport.rendezvous import Meeting
from pipar_rpc.transport.rpc_group import Session

log = logging.getLogger("pipar_rpc")

REGROUP_CODE = 75  # torchrun starts all ranks again
FOLDER = "folder"


def job_folder(
    arguments: Sequence[str], raw: DictConfig, multirun: bool, world: World, meeting: Meeting | None
) -> tuple[Path, bool]:
    """Where results go, and whether an earlier run or sweep goes on there.

    Raises:
        UserError: another one is there, and `overwrite` does not say that it may be replaced.
    """
    folder = meeting.recall(FOLDER) if meeting else None
    if folder is not None:  # torchrun has started the workers again
        return Path(folder), True
    (new, chosen), auto = hydra_compose.run_folder(arguments), raw.resume == resuming.AUTO
    if auto:
        earlier = resuming.earlier_run(new, _resolved(raw, world), multirun, chosen, raw.overwrite)
        if earlier is not None and not replacing.is_moving(earlier):
            return earlier, True
        log.info("resume=auto: nothing to resume in %s", new.parent)
    own = not multirun and not replacing.is_moving(new) and resuming.names(raw.resume, new)
    if raw.overwrite or not own:
        replacing.refuse(new, multirun, raw.overwrite, auto)
    return new, False


def examine(
    arguments: Sequence[str],
    raw: DictConfig,
    multirun: bool,
    world: World,
    local: Node,
    meeting: Meeting | None,
) -> tuple[Path, bool]:
    """Refuses what the user must mend, before anything is started or written; arguments and result as of
    `job_folder`. The jobs of a sweep are examined when they are run: one that fails does not stop the others.
    """
    plan = None if multirun else make_plan(raw, world.size, local.data_root, world.one_machine)
    folder, goes_on = job_folder(arguments, raw, multirun, world, meeting)
    if plan is not None and not goes_on:
        resuming.named(plan)
    check_room(folder, needed_bytes(plan) if plan else 0, "hydra.sweep.dir" if multirun else "hydra.run.dir")
    return folder, goes_on


class Jobs:
    """Runs the jobs that Hydra composes and remembers how each ended.

    Args:
        local: this machine.
        world: this process's place.
        folder: folder of the run or the sweep; this process is alone in it.
        goes_on: whether an earlier one goes on there.
        group: RPC group of all ranks.
        sockets: a line about where they listen.
    """

    def __init__(
        self, local: Node, world: World, folder: Path, goes_on: bool, group: Session, sockets: str
    ) -> None:
        self._local, self._world, self._goes_on, self._group = local, world, goes_on, group
        self._folder = Path(os.path.abspath(folder))
        self._sockets = sockets
        self._regroups = False
        self._done: dict[Path, Row] = {}
        self._failed: dict[Path, Exception] = {}

    def run(self, raw: DictConfig, output_dir: Path, number: int) -> float | None:
        """One job; returns its `objective`, NaN if it has failed, None if there is none."""
        rows = [] if self._regroups else self._try(raw, output_dir, number)
        return last_figure(rows, raw.objective) if raw.objective else None

    def _try(self, raw: DictConfig, output_dir: Path, number: int) -> list[Row]:
        """One job; a failure is shown and remembered, so that it does not stop the others of a sweep."""
        if not self._done and not self._failed:
            log.info(self._sockets)
        try:
            if output_dir in self._done or output_dir in self._failed:
                taken, output_dir = output_dir, output_dir / f"job {number}"
                raise ConfigError("hydra.sweep.subdir", taken.name, "another folder for each job")
            same = f"{self._world.num_servers}, as in the first job of the sweep: they are named once"
            require(raw.num_servers == self._world.num_servers, "num_servers", raw.num_servers, same)
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
            _say(f"\n{summary_table(rows)}\n\nresults:     {output_dir}")
            _say(f"TensorBoard: tensorboard --logdir {shlex.quote(str(output_dir))}\n")
            self._done[output_dir] = rows[-1]
            return rows
        return []

    def _run(self, raw: DictConfig, plan: Plan, output_dir: Path, number: int) -> list[Row]:
        config = _resolved(raw, self._world)
        different = resuming.difference(config, output_dir) if self._goes_on else None
        if different not in {None, CONFIG} and raw.resume == resuming.AUTO:
            raise UserError(f"resume=auto: another training is in {output_dir}: {different} differs")
        text = OmegaConf.to_yaml(config).encode()
        with ExitStack() as stack:
            if output_dir != self._folder:
                stack.enter_context(alone_in(output_dir))
            return job.run(
                *(plan, self._local, output_dir, number, self._goes_on and different is None, self._group),
                on_begin=lambda: write_whole(output_dir / CONFIG, lambda file: file.write(text)),
                on_saved=lambda: replacing.release(self._folder, output_dir),
            )

    def finish(self) -> int:
        """Sums up a sweep and returns the exit code."""
        if self._regroups:
            return REGROUP_CODE
        if len(self._done) + len(self._failed) > 1:
            root = Path(os.path.commonpath([*self._done, *self._failed]))
            _say(*sweep_table({str(path.relative_to(root)): row for path, row in self._done.items()}))
            for path, error in self._failed.items():
                _say(f"failed: {path.relative_to(root)}: {first_line(error)}")
            _say(f"{len(self._done)} jobs done, {len(self._failed)} failed")
        if not self._failed:
            replacing.release(self._folder, self._folder)  # nothing there is still to be replaced
            return 0
        tell_torchrun("\n".join(f"{path.name}: {error}" for path, error in self._failed.items()))
        return 2 if all(isinstance(error, UserError) for error in self._failed.values()) else 1


def _resolved(raw: DictConfig, world: World) -> DictConfig:
    """The whole configuration, as config.yaml has it."""
    config = OmegaConf.merge(raw, {"num_devices": number_of_devices(raw, world.size - world.num_servers)})
    OmegaConf.resolve(config)
    assert isinstance(config, DictConfig)
    return resuming.identified(config)


def _say(*lines: str) -> None:
    """Prints to stdout; whoever read it may be gone, and the results are written all the same."""
    with suppress(OSError):
        print(*lines, sep="\n", flush=True)
