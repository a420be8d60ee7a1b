"""Folders that hold a run or a sweep: nobody begins there, unless to replace it; and then nothing is lost.

With `overwrite=true` the files of an older run, or of all jobs of an older sweep, are moved into `replaced/`
before anything is written; those of a job go when the first checkpoint of what replaces it is complete. While
they are moved, it is called `replaced.partial/`: nothing has begun since, and the next start moves the rest.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipar_rpc.checkpoint import FOLDER, CheckpointFolder
from pipar_rpc.errors import UserError
from pipar_rpc.storage import LOCK, alone_in

ASIDE, MOVING = "replaced", "replaced.partial"
SWEEP = "multirun.yaml"  # Hydra's, in the folder of a sweep
MODEL, ROWS, CONFIG = "model.pt", "results.csv", "config.yaml"
TABLES, PICTURES = ("selection.csv", "trace.json"), ("partition.png", "iteration.png")
# What a run writes; that by which it is known comes last.
PARTS = (".hydra", "tensorboard", "pipar_rpc.log", *TABLES, *PICTURES, FOLDER, ROWS, MODEL, CONFIG)


def runs_in(folder: Path) -> list[Path]:
    """The folder and those below it in which a run has begun, but for those that are being replaced."""
    found = []
    for place, folders, _ in os.walk(folder):
        folders[:] = sorted({*folders} - {ASIDE, MOVING, *PARTS})
        if _sign(Path(place)) is not None:
            found.append(Path(place))
    return found


def refuse(root: Path, sweep: bool, overwrite: bool, resume: bool) -> None:
    """Raises UserError if a run or a sweep must not begin in a folder, because of what it holds.

    Args:
        root: of the run or the sweep.
        sweep: which of the two it is.
        overwrite: whether what is there may be replaced.
        resume: whether it was to go on with what is there, but found no checkpoint: what has nothing to show
            begins anew.
    """
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    runs = _runs(root, sweep)
    if overwrite:
        if sweep and runs and runs != [root] and not (root / SWEEP).exists():
            what = f"overwrite=true replaces a run or a sweep, and this is neither, but {runs[-1]} is in it"
            raise UserError(f"{key}={root}: {what}")
        _refuse_busy(runs)
        return
    signs = [sign for run in runs if (sign := _sign(run, trained=resume)) is not None]
    signs += [root / name for name in (ASIDE, MOVING) if (root / name).exists()]
    if (root / SWEEP).exists() and not resume:
        signs.append(root / SWEEP)
    if signs:
        raise _held(key, root, signs[0], resume)


def refuse_job(run: Path, resume: bool) -> None:
    """The same for one job, whose folder Hydra has made: that of a sweep is not known before."""
    sign = _sign(run, trained=resume)
    if sign is not None:
        raise _held("hydra.run.dir", run, sign, resume)


def _held(key: str, folder: Path, sign: Path, resume: bool) -> UserError:
    holds, replaces = f"holds a run ({sign.relative_to(folder)})", "overwrite=true replaces it"
    if resume:
        return UserError(f"{key}={folder}: {holds}, but nothing to go on with: {replaces}")
    return UserError(f"{key}={folder}: {holds}: resume=auto goes on with it, {replaces}")


def is_moving(root: Path) -> bool:
    """Whether a start with `overwrite=true` was killed while it moved what a folder holds."""
    return (root / MOVING).exists()


def set_aside(root: Path, sweep: bool) -> None:
    """Moves what a folder holds into `replaced/`; whatever is killed meanwhile, the next call goes on.

    If something is in `replaced/`, what lies beside it was begun to replace it: where that has got to a
    checkpoint, or a model, it takes the place of the older, otherwise it is dropped.

    Args:
        root: of the run or the sweep that begins; the caller is alone in it.
        sweep: which of the two it is.

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
        root: of the run or the sweep.
        run: the folder of the run or the job.
    """
    aside = root / ASIDE
    if run == root:
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists() and run.is_relative_to(root):
        _remove(aside / run.relative_to(root), root)


def places(path: Path) -> Iterator[Path]:
    """Where a file or a folder of a run may be: there, or where it has been moved to."""
    yield path
    for folder in (path, *path.parents):
        for name in (ASIDE, MOVING):
            yield folder / name / path.relative_to(folder)


def _runs(root: Path, sweep: bool) -> list[Path]:
    """What a new run, or sweep, would replace: with a run, what lies below it is not in its way."""
    if sweep or (root / SWEEP).exists():
        return runs_in(root)
    return [root] if _sign(root) is not None else []


def _sign(run: Path, trained: bool = False) -> Path | None:
    """A file by which one sees that a run has begun in a folder, or that it has trained."""
    for path in (*CheckpointFolder(run).files(), run / MODEL, run / ROWS, run / CONFIG):
        if path.is_file() and not (trained and (path.name == CONFIG or _is_empty_table(path))):
            return path
    return None


def _is_empty_table(path: Path) -> bool:
    if path.name != ROWS:
        return False
    with path.open("rb") as file:
        file.readline()
        return not file.readline()


def _trained(run: Path) -> bool:
    """Whether what a run has replaced may go."""
    return bool(CheckpointFolder(run).files()) or (run / MODEL).exists()


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
    """Removes folders that are empty but for a lock that nobody holds."""
    with suppress(OSError):  # not empty
        while folder != root:
            if os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
            folder.rmdir()
            folder = folder.parent
