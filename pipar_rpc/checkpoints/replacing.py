"""Folders that hold a run or a sweep: nobody begins there except to replace it, and then nothing is lost.

With `overwrite=true` the files of an older run, or of all jobs of an older sweep, are moved into `replaced/`
before anything is written; a job's files go when the first checkpoint of what replaces it is complete. While
they are moved, it is called `replaced.partial/`: nothing has begun yet, and the next start moves the rest.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipar_rpc.base.disk import LOCK, alone_in
from pipar_rpc.base.errors import UserError
from pipar_rpc.results.run_files import (
    ASIDE,
    CONFIG,
    MARK,
    MODEL,
    MOVING,
    PARTS,
    SWEEP,
    checkpoints_of,
    is_config,
    runs_in,
    sign_of,
)

FIRST = "round_000000"  # the checkpoint before anything was trained


def refuse(root: Path, sweep: bool, overwrite: bool, resume: bool) -> None:
    """Raises UserError if a run or a sweep must not begin in a folder, because of what it holds.

    Args:
        root: folder of the run or the sweep.
        sweep: whether it is a sweep.
        overwrite: whether the older run or sweep may be replaced.
        resume: whether the new run was to go on with the older one, but found no checkpoint: an older run
            that has trained nothing begins anew.
    """
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    _refuse_foreign(key, root)
    runs = _runs(root, sweep)
    if overwrite:
        if sweep and runs and runs != [root] and not (root / SWEEP).exists():
            what = f"overwrite=true replaces a run or a sweep, and this is neither, but {runs[-1]} is in it"
            raise UserError(f"{key}={root}: {what}")
        _refuse_busy(runs)
        return
    signs = [sign for run in runs if (sign := sign_of(run, trained=resume)) is not None]
    signs += [root / name for name in (ASIDE, MOVING) if (root / name).exists()]
    if (root / SWEEP).exists() and not resume:
        signs.append(root / SWEEP)
    if signs:
        raise _held(key, root, signs[0], resume)


def refuse_job(run: Path, resume: bool) -> None:
    """Does the same for one job in the folder that Hydra has made; a sweep does not know it earlier."""
    sign = sign_of(run, trained=resume)
    if sign is not None:
        raise _held("hydra.run.dir", run, sign, resume)


def _held(key: str, folder: Path, sign: Path, resume: bool) -> UserError:
    holds, replaces = f"holds a run ({sign.relative_to(folder)})", "overwrite=true replaces it"
    if resume:
        return UserError(f"{key}={folder}: {holds}, but nothing to go on with: {replaces}")
    return UserError(f"{key}={folder}: {holds}: resume=auto goes on with it, {replaces}")


def _refuse_foreign(key: str, root: Path) -> None:
    """Raises UserError for files of the user's that a run would overwrite, or take for those of a run."""
    config = root / CONFIG
    if config.is_file() and not is_config(config):
        raise UserError(f"{key}={root}: holds a {CONFIG} that is not of a run: choose another folder")
    for name in (ASIDE, MOVING):
        held = set(os.listdir(root / name)) if (root / name).is_dir() else set()
        if held and MARK not in held:
            raise UserError(f"{key}={root}: holds {name}/, which is not of a run: choose another folder")


def is_moving(root: Path) -> bool:
    """Whether a start with `overwrite=true` was killed while it moved what a folder holds."""
    return (root / MOVING).exists()


def set_aside(root: Path, sweep: bool) -> None:
    """Moves what a folder holds into `replaced/`; if it is killed meanwhile, the next call goes on.

    If something is in `replaced/` already, a run was begun to replace it: where it has a checkpoint or a
    model, it takes the older one's place, otherwise it is dropped.

    Args:
        root: folder of the run or the sweep that begins; the caller is alone in it.
        sweep: whether it is a sweep.

    Raises:
        UserError: another process is writing into the folder of a job.
    """
    runs, aside, moving = _runs(root, sweep), root / ASIDE, root / MOVING
    _refuse_busy([run for run in runs if run != root])
    if aside.exists():
        for run in runs:
            if _trained(run):
                release(root, run)
            else:
                _remove(run, root)
        if aside.exists():
            aside.rename(moving)
    if runs or (root / SWEEP).exists() or moving.exists():
        moving.mkdir(exist_ok=True)
        (moving / MARK).touch()
    for run in runs:
        place = moving / run.relative_to(root)
        place.mkdir(parents=True, exist_ok=True)
        for part in _parts(run):
            part.replace(place / part.name)
        _prune(run, root)
    if (root / SWEEP).exists():
        moving.mkdir(exist_ok=True)
        (root / SWEEP).replace(moving / SWEEP)
    if moving.exists():
        moving.rename(aside)


def release(root: Path, run: Path) -> None:
    """Removes what a run, or a job of a sweep, has replaced.

    Args:
        root: folder of the run or the sweep.
        run: folder of the run or the job.
    """
    aside = root / ASIDE
    if not (aside / MARK).exists():
        return
    if run == root:
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists() and run.is_relative_to(root):
        _remove(aside / run.relative_to(root), root)


def places(path: Path) -> Iterator[Path]:
    """Yields the places where a file or a folder of a run may be: its own, and where it was moved to."""
    yield path
    for folder in (path, *path.parents):
        for name in (ASIDE, MOVING):
            yield folder / name / path.relative_to(folder)


def _runs(root: Path, sweep: bool) -> list[Path]:
    """Lists what a new run or sweep would replace; a run does not replace what is in folders below it."""
    if sweep or (root / SWEEP).exists():
        return runs_in(root)
    return [root] if sign_of(root) is not None else []


def _trained(run: Path) -> bool:
    """Whether a run has trained, so that what it has replaced may go."""
    return any(path.stem != FIRST for path in checkpoints_of(run)) or (run / MODEL).exists()


def _refuse_busy(runs: list[Path]) -> None:
    for run in runs:
        with alone_in(run):
            pass


def _parts(run: Path) -> list[Path]:
    return [run / name for name in PARTS if os.path.lexists(run / name)]


def _remove(run: Path, root: Path) -> None:
    """Removes a run's files, and nothing else, with the folders that are empty then."""
    for part in _parts(run):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink()
    _prune(run, root)


def _prune(folder: Path, root: Path) -> None:
    """Removes folders that are empty except for a lock that nobody holds."""
    with suppress(OSError):  # not empty
        while folder != root:
            if os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
            folder.rmdir()
            folder = folder.parent
