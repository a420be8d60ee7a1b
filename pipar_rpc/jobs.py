"""The jobs of a run or a sweep: where each writes, how it ended, and what the process's exit code is."""

import json
import logging
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipar_rpc import composition, experiment, replacing, resuming
from pipar_rpc.display import summary_table, sweep_table
from pipar_rpc.errors import ConfigError, PeerError, RegroupError, UserError, first_line
from pipar_rpc.meeting import Meeting
from pipar_rpc.node import Node
from pipar_rpc.plan import Plan, make_plan
from pipar_rpc.replacing import CONFIG
from pipar_rpc.session import Session
from pipar_rpc.sinks import Row
from pipar_rpc.storage import alone_in, write_whole

log = logging.getLogger("pipar_rpc")

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
    new, auto = composition.run_folder(arguments), raw.resume == resuming.AUTO
    if auto:
        chosen = any(argument.lstrip("+").startswith(FOLDER_KEYS) for argument in arguments)
        earlier = resuming.earlier_run(new, _resolved(raw, world), multirun, chosen, raw.overwrite)
        if earlier is not None and not replacing.is_moving(earlier):
            return earlier, True
        log.info("resume=auto: nothing to resume in %s", new.parent)
    own = not multirun and not replacing.is_moving(new) and resuming.names(raw.resume, new)
    if raw.overwrite or not own:
        replacing.refuse(new, multirun, raw.overwrite, auto)
    return new, False


class Jobs:
    """Runs the jobs that Hydra composes and remembers how each ended.

    Args:
        local: this machine.
        world: this process's place.
        folder: of the run or the sweep; this process is alone in it.
        goes_on: whether an earlier one goes on there.
        group: of all ranks.
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
        if different not in {None, CONFIG} and raw.resume == resuming.AUTO:
            raise UserError(f"resume=auto: another training is in {output_dir}: {different} differs")
        text = OmegaConf.to_yaml(config).encode()
        with ExitStack() as stack:
            if output_dir != self._folder:
                stack.enter_context(alone_in(output_dir))
            return experiment.run(
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
            print(
                *sweep_table({str(path.relative_to(root)): row for path, row in self._done.items()}), sep="\n"
            )
            for path, error in self._failed.items():
                print(f"failed: {path.relative_to(root)}: {first_line(error)}")
            print(f"{len(self._done)} jobs done, {len(self._failed)} failed", flush=True)
        if not self._failed:
            replacing.release(self._folder, self._folder)  # nothing there is still to be replaced
            return 0
        tell_torchrun("\n".join(f"{path.name}: {error}" for path, error in self._failed.items()))
        return 2 if all(isinstance(error, UserError) for error in self._failed.values()) else 1


def _resolved(raw: DictConfig, world: World) -> DictConfig:
    """The whole configuration, as config.yaml has it."""
    config = OmegaConf.merge(raw, {"num_devices": raw.num_devices or world.size - 1})
    OmegaConf.resolve(config)
    assert isinstance(config, DictConfig)
    return resuming.identified(config)


def tell_torchrun(message: str) -> None:
    """Has torchrun repeat an error as the root cause in the report that it prints when a rank fails."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
