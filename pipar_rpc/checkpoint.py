"""Training as a file: everything from which it goes on as if nothing had happened.

Random numbers are not in it: every random choice has a generator named after what it decides (`seeds`).
"""

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from pipar_rpc.errors import UserError, first_line
from pipar_rpc.fedavg import State

log = logging.getLogger(__name__)

FORMAT = "pipar_rpc checkpoint 1"
FOLDER = "checkpoints"


@dataclass
class Checkpoint:
    """A job at the end of a round.

    Attributes:
        round: rounds trained.
        epoch: in which to go on, from 1; larger than the job's epochs at the end of the training.
        iteration: at which to go on, from 0.
        networks: the global network; or each device's own, if they are never averaged.
        momentum: of each device's network, by the names of parameters; shared tensors for a shared half.
        cuts: P and N of each device.
        settings: what must be the same for training to go on, by configuration keys.
        rows: of the epochs that have ended; see `pipar_rpc.sinks`.
    """

    round: int
    epoch: int
    iteration: int
    networks: list[State]
    momentum: list[State]
    cuts: list[tuple[int, int]]
    settings: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def beginning(self, device: int) -> tuple[State, State]:
        """Weights and momentum of device `device` (from 0)."""
        return self.networks[device if len(self.networks) > 1 else 0], self.momentum[device]

    @property
    def where(self) -> str:
        """In words."""
        inside = f", iteration {self.iteration}" if self.iteration else ""
        return f"the end of round {self.round} (next: epoch {self.epoch}{inside})"


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the file whole or not at all; raises OSError."""
    partial = path.with_suffix(".partial")
    content = {entry.name: getattr(checkpoint, entry.name) for entry in fields(checkpoint)}
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except RuntimeError as error:  # torch's own words for a disk that is full
        raise OSError(first_line(error)) from error
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint; nothing in it can run code. Raises UserError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a whole checkpoint: {first_line(error)}") from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version of pipar_rpc")
    try:
        return Checkpoint(**{key: value for key, value in content.items() if key != "format"})
    except TypeError as error:
        raise UserError(f"{path}: not a whole checkpoint: {error}") from error


class CheckpointFolder:
    """The last checkpoints of a job.

    Args:
        output_dir: of the job.
        keep: how many.
    """

    def __init__(self, output_dir: Path, keep: int = 1) -> None:
        self.path, self._keep = output_dir / FOLDER, keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Adds one and removes those that are too old; raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"round_{checkpoint.round:06}.pt"
        write(checkpoint, path)
        for old in self.files()[self._keep :]:
            old.unlink(missing_ok=True)
        return path

    def files(self) -> list[Path]:
        """From the newest to the oldest."""
        return sorted(self.path.glob("round_*.pt"), reverse=True)

    def latest(self) -> Checkpoint | None:
        """The newest that can be read; says which cannot."""
        for path in self.files():
            try:
                return read(path)
            except UserError as error:
                log.warning("%s; the one before it is used", error)
        return None

    def clear(self) -> None:
        """Removes all."""
        for path in self.files():
            path.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
