"""From which checkpoint a job goes on, and whether it may."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from pipar_rpc.checkpoint import FOLDER, Checkpoint, CheckpointFolder, read
from pipar_rpc.data import digest, read_indices
from pipar_rpc.errors import ConfigError, UserError
from pipar_rpc.plan import Plan
from pipar_rpc.replacing import CONFIG, places, runs_in

log = logging.getLogger(__name__)

AUTO = "auto"
SAME = ("strategy", "sfl", "model", "data", "partition", "num_devices", "batch_size", "aggregation", "seed")
MAY_DIFFER = ("model.weights", "model.strict_weights", "partition.path")
CONTENT = "partition.content"  # of the file of partition=file, which counts instead of its path
OWN = ("batch_size", "data")  # of these, each device may have its own
UNIMPORTANT = (  # to what is trained
    *("node", "resume", "overwrite", "fault", "checkpoint", "epochs", "experiment_name", "objective"),
)


def settings_of(plan: Plan) -> dict[str, Any]:
    """What decides about weights, by configuration keys; but for P, N and the optimiser, which may change."""
    common = _flat(dataclasses.asdict(plan.config), SAME)
    if plan.config.partition.name == "file":
        common[CONTENT] = digest(plan.devices[0].data.partition.indices)
    for number, own in enumerate(plan.own, start=1):
        single = _flat(dataclasses.asdict(own), OWN)
        common |= {
            f"devices.overrides.{number}.{key}": value
            for key, value in single.items()
            if value != common[key]
        }
    return common


def identified(config: DictConfig) -> DictConfig:
    """The whole configuration of a job as config.yaml has it: with the contents that its files have now."""
    if config.partition.name == "file" and config.partition.path:
        content = digest(read_indices(Path(config.partition.path)))
        OmegaConf.update(config, CONTENT, content, force_add=True)  # it is no key of the user's
    return config


def find(plan: Plan, output_dir: Path, goes_on: bool) -> tuple[Checkpoint | None, bool]:
    """The checkpoint from which a job goes on.

    Args:
        plan: the job.
        output_dir: of the job.
        goes_on: whether the job was begun in this folder by a process that has ended.

    Returns:
        The checkpoint, None to begin anew; and whether it is from this folder.

    Raises:
        UserError: there is none where `resume` says, it is of another job, or none can be read.
    """
    resume, own = plan.config.resume, CheckpointFolder(output_dir)
    # A checkpoint of this folder that was named is there until the first one after it is complete.
    begins = resume is not None and _path(resume).is_file() and _same(_path(resume).parent, own.path)
    if goes_on and not begins:
        checkpoint = own.latest()
        if checkpoint is not None:
            _check(checkpoint, plan, own.path)
            return checkpoint, True
    found = named(plan)
    return (None, False) if found is None else (found[0], _same(found[1], own.path))


def named(plan: Plan) -> tuple[Checkpoint, Path] | None:
    """The checkpoint at the path that `resume` names, and its folder, if it names one; errors as `find`."""
    resume = plan.config.resume
    if resume is None or resume == AUTO:
        return None
    for path in places(_path(resume)):
        folder = CheckpointFolder(path.parent if path.name == FOLDER else path)
        checkpoint = read(path) if path.is_file() else folder.latest()
        if checkpoint is not None:
            _check(checkpoint, plan, path)
            return checkpoint, path.parent if path.is_file() else folder.path
    raise ConfigError("resume", resume, "auto, a checkpoint, or the folder of a run that has one")


def names(resume: str | None, run: Path) -> bool:
    """Whether `resume` names a run that has checkpoints in this folder, or one of them."""
    if resume is None or resume == AUTO or not CheckpointFolder(run).files():
        return False
    path = _path(resume)
    return _same(path, run) or _same(path, run / FOLDER) or _same(path.parent, run / FOLDER)


def earlier_run(
    new: Path, config: DictConfig, sweep: bool, chosen: bool, overwrite: bool = False
) -> Path | None:
    """The folder of the newest run, or sweep, that was begun with the same configuration.

    Args:
        new: the folder that would be begun now; others are looked for beside it.
        config: of the job, or of the sweep's first job.
        sweep: whether it is a sweep.
        chosen: whether the user has named the folder: then it is this one or none.
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
    """The first key in which a job differs from the one that was begun in a folder; None if there is none."""
    new: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    try:
        old: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG), resolve=True)
    except (OSError, ValueError, YAMLError):
        return CONFIG
    keys = tuple(key for key in new.keys() | old.keys() if key not in UNIMPORTANT)
    if any(key not in new or key not in old for key in keys):
        return CONFIG
    now, then = _flat(new, keys), _flat(old, keys)
    return next((key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)), None)


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
    own, theirs = settings_of(plan), checkpoint.settings
    for key in sorted(own.keys() | theirs.keys()):
        if own.get(key) != theirs.get(key):
            raise ConfigError(key, own.get(key), f"{theirs.get(key)} as in the checkpoint to resume ({path})")
    split_point, old = plan.devices[0].split_point, checkpoint.cuts[0][0]
    if plan.config.resolved_strategy.shared_half and split_point != old:
        shared = f"{old} as in the checkpoint to resume: the devices share one server half"
        raise ConfigError("pipeline.split_point", split_point, shared)


def _flat(config: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Plain values by dotted keys."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping) and value:
            return {k: v for name, own in value.items() for k, v in walk(f"{prefix}.{name}", own).items()}
        return {} if prefix in MAY_DIFFER else {prefix: json.loads(json.dumps(value, default=str))}

    return {key: value for name in keys for key, value in walk(name, config[name]).items()}
