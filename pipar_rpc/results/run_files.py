"""The files that a run leaves in its folder, and how to find the folders of runs."""

import os
import re
from fnmatch import fnmatch
from pathlib import Path

from pipar_rpc.base.errors import UserError

ASIDE, MOVING = "replaced", "replaced.partial"
MARK = ".pipar_rpc"  # in these two: a folder of the user's may have the same name
SWEEP = "multirun.yaml"  # Hydra's, in the folder of a sweep
MODEL, BEST_MODEL, ROWS, CONFIG = "model.pt", "model_best.pt", "results.csv", "config.yaml"
CHECKPOINTS, SELECTION, FACTS = "checkpoints", "selection.csv", "facts.yaml"
TABLES, PICTURES = (SELECTION, FACTS, "trace.json"), ("partition.png", "iteration.png", "confusion.png")
LEAKAGE, LEAKAGE_TIMES = "leakage.csv", "leakage_times.json"
LEAKAGE_PICTURES = LEAKAGE_PICTURE, RECONSTRUCTIONS = "leakage.png", "reconstructions.png"
# Of python -m pipar_rpc.simulate, which trains nothing: folders with these alone are no runs.
SIMULATION, SIMULATION_PICTURE, SIMULATION_SCALE = "simulation.csv", "simulation.png", "simulation_scale.png"
# What a run, and a command about it, writes; that by which it is known comes last.
PARTS = (
    *(".hydra", "tensorboard", "pipar_rpc.log", *TABLES, *PICTURES, CHECKPOINTS),
    *(LEAKAGE, LEAKAGE_TIMES, *LEAKAGE_PICTURES),
    *(ROWS, BEST_MODEL, MODEL, CONFIG),
)


def runs_in(folder: Path) -> list[Path]:
    """Lists the folders, this one and below, in which a run has begun; without those being replaced."""
    runs = []
    for place, folders, _ in os.walk(folder):
        folders[:] = sorted({*folders} - {ASIDE, MOVING, *PARTS})
        if sign_of(Path(place)) is not None:
            runs.append(Path(place))
    return runs


def is_config(path: Path) -> bool:
    """Whether a config.yaml is that of a run, which has keys that every run has."""
    text = path.read_text(errors="replace")
    return all(re.search(rf"^{key}:", text, flags=re.MULTILINE) for key in ("strategy", "pipeline", "seed"))


def checkpoints_of(run: Path) -> list[Path]:
    """Lists the checkpoints of a run, the newest first; raises UserError if the folder cannot be read."""
    folder = run / CHECKPOINTS
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    return sorted((folder / name for name in names if fnmatch(name, "round_*.pt")), reverse=True)


def sign_of(run: Path, trained: bool = False) -> Path | None:
    """Returns a file that shows that a run has begun in a folder, or that it has trained, or None."""
    for path in (*checkpoints_of(run), run / MODEL, run / BEST_MODEL, run / ROWS, run / CONFIG):
        if path.is_file() and not (trained and (path.name == CONFIG or _is_empty_table(path))):
            return path
    return None


def _is_empty_table(path: Path) -> bool:
    if path.name != ROWS:
        return False
    with path.open("rb") as file:
        file.readline()
        return not file.readline()
