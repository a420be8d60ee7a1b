"""Finds the checkpoint from which a job goes on, and checks that it may."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from pipar_rpc.base.errors import ConfigError, UserError
from pipar_rpc.checkpoints.file import Checkpoint, CheckpointFolder, read
from pipar_rpc.checkpoints.replacing import places
from pipar_rpc.data import digest, read_indices
from pipar_rpc.plan.plan import Plan
from pipar_rpc.plan.same_training import CONTENT, DEFAULTS, flat
from pipar_rpc.results.run_files import CHECKPOINTS, CONFIG, runs_in

log = logging.getLogger(__name__)

AUTO = "auto"
UNIMPORTANT = (  # keys that do not change what is trained
    *("node", "resume", "overwrite", "fault", "checkpoint", "placement"),
    *("epochs", "until", "experiment_name", "objective", "num_servers"),
)


def identified(config: DictConfig) -> DictConfig:
    """Returns a job's configuration as config.yaml has it: with the contents that its files have now."""
    if config.partition.name == "file" and config.partition.path:
        content = digest(read_indices(Path(config.partition.path)))
        OmegaConf.update(config, CONTENT, content, force_add=True)  # it is no key of the user's
    return config


def find(plan: Plan, output_dir: Path, goes_on: bool) -> tuple[Checkpoint | None, bool]:
    """Finds the checkpoint from which a job goes on.

    Args:
        plan: plan of the job.
        output_dir: folder of the job.
        goes_on: whether the job was begun in this folder by a process that has ended.

    Returns:
        The checkpoint, or None to begin anew; and whether it is from this folder.

    Raises:
        UserError: there is no checkpoint where `resume` says, it is another job's, or it cannot be read.
    """
    resume, own = plan.checkpoints.resume, CheckpointFolder(output_dir)
    # A checkpoint of this folder that `resume` names stays until the first one after it is complete.
    begins = resume is not None and _path(resume).is_file() and _same(_path(resume).parent, own.path)
    if goes_on and not begins:
        checkpoint = own.latest()
        if checkpoint is not None:
            _check(checkpoint, plan, own.path)
            return checkpoint, True
    source = named(plan)
    return (None, False) if source is None else (source[0], _same(source[1], own.path))


def named(plan: Plan) -> tuple[Checkpoint, Path] | None:
    """Reads the checkpoint that `resume` names by a path, if any; returns it and its folder, as `find`."""
    resume = plan.checkpoints.resume
    if resume is None or resume == AUTO:
        return None
    for path in places(_path(resume)):
        folder = CheckpointFolder(path.parent if path.name == CHECKPOINTS else path)
        checkpoint = read(path) if path.is_file() else folder.latest()
        if checkpoint is not None:
            _check(checkpoint, plan, path)
            return checkpoint, path.parent if path.is_file() else folder.path
    raise ConfigError("resume", resume, "auto, a checkpoint, or the folder of a run that has one")


def names(resume: str | None, run: Path) -> bool:
    """Whether `resume` names a run that has checkpoints in this folder, or one of the checkpoints."""
    if resume is None or resume == AUTO or not CheckpointFolder(run).files():
        return False
    path = _path(resume)
    return _same(path, run) or _same(path, run / CHECKPOINTS) or _same(path.parent, run / CHECKPOINTS)


def earlier_run(
    new: Path, config: DictConfig, sweep: bool, chosen: bool, overwrite: bool = False
) -> Path | None:
    """Finds the folder of the newest run, or sweep, that was begun with the same configuration.

    Args:
        new: folder that would be begun now; others are looked for beside it.
        config: configuration of the job, or of the sweep's first job.
        sweep: whether it is a sweep.
        chosen: whether the user has named the folder: then no other one is looked for.
        overwrite: whether another training in that folder may be replaced.

    Raises:
        UserError: another training is in the folder that the user has named.
    """
    runs = [new] if chosen else [path for path in new.parent.glob("*") if path.is_dir()]
    for run in sorted(runs, key=_last_saved, reverse=True):
        jobs = [job for job in (runs_in(run) if sweep else [run]) if (job != run) == sweep]
        different = [difference(config, job) for job in jobs if CheckpointFolder(job).files()]
        if None in different:
            return run
        if chosen and different and not overwrite:
            raise UserError(f"resume=auto: another training is in {new}: {different[0]} differs")
    return None


def difference(config: DictConfig, folder: Path) -> str | None:
    """Returns the first key in which a job differs from the one begun in a folder; None if there is none."""
    new: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    try:
        old: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG), resolve=True)
    except (OSError, ValueError, YAMLError):
        return CONFIG
    if not isinstance(old, Mapping):
        return CONFIG
    keys = tuple(key for key in new.keys() | old.keys() if key not in UNIMPORTANT)
    if any(key not in new or key not in old for key in keys):
        return CONFIG
    return _different(flat(new, keys), flat(old, keys))


def _different(now: Mapping[str, Any], then: Mapping[str, Any]) -> str | None:
    """Returns the first key whose values differ; a key that was not yet known then had its default."""
    keys = sorted(now.keys() | then.keys())
    return next((key for key in keys if now.get(key) != then.get(key, DEFAULTS.get(key))), None)


def _last_saved(run: Path) -> float:
    times = [0.0]
    for job in runs_in(run):
        for path in CheckpointFolder(job).files():
            with suppress(FileNotFoundError):  # a run that goes on has just removed it
                times.append(path.stat().st_mtime)
    return max(times)


def _path(resume: str) -> Path:
    return Path(resume).expanduser().absolute()


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()


def _check(checkpoint: Checkpoint, plan: Plan, path: Path) -> None:
    wanted, saved = plan.checkpoints.same, checkpoint.settings
    if (key := _different(wanted, saved)) is not None:
        raise ConfigError(key, wanted.get(key), f"{saved.get(key)} as in the checkpoint to resume ({path})")
    split_point, old = plan.devices[0].split_point, checkpoint.cuts[0][0]
    if plan.settings.strategy.shared_half and split_point != old:
        shared = f"{old} as in the checkpoint to resume: the devices share one server half"
        raise ConfigError("pipeline.split_point", split_point, shared)
