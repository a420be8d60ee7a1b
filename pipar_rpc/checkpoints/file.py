"""Training as a file: everything from which it goes on as if nothing had happened.

Random numbers are not in it: every random choice has a generator named after what it decides (`seeds`).
"""

import logging
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipar_rpc.base.errors import UserError, first_line
from pipar_rpc.base.states import State

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
        rows: of the epochs that have ended; see `pipar_rpc.results.writers`.
        elapsed_s: emulated seconds since the training began, without interruptions; for bandwidth traces.
    """

    round: int
    epoch: int
    iteration: int
    networks: list[State]
    momentum: list[State]
    cuts: list[tuple[int, int]]
    settings: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    elapsed_s: float = 0.0

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
            torch.save({"format": FORMAT, "digest": _digest(content), **content}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except RuntimeError as error:  # torch's own words for a disk that is full, or for Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise OSError(first_line(error)) from error
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint; nothing in it can run code. Raises UserError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch's readers fail in every way on what is damaged or not theirs
        raise UserError(f"{path}: not a whole checkpoint: {first_line(error)}") from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version of pipar_rpc")
    own = {key: value for key, value in content.items() if key not in {"format", "digest"}}
    if _digest(own) != content.get("digest"):
        raise UserError(f"{path}: not a whole checkpoint: its content has changed")
    try:
        return Checkpoint(**own)
    except TypeError as error:  # of a later version
        raise UserError(f"{path}: not a checkpoint of this version of pipar_rpc") from error


def _digest(value: Any, before: int = 0) -> int:
    """A CRC-32 of everything in a checkpoint: files may be damaged where torch does not notice it."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        numbers: Any = flat.view(torch.uint8).numpy()
        return zlib.crc32(numbers, before)
    if isinstance(value, Mapping):
        for key, own in value.items():
            before = _digest(own, zlib.crc32(repr(key).encode(), before))
        return before
    if isinstance(value, list | tuple):
        for own in value:
            before = _digest(own, before)
        return before
    return zlib.crc32(repr(value).encode(), before)


class CheckpointFolder:
    """The last checkpoints of a job.

    Args:
        output_dir: of the job.
        keep: how many.
        in_place: whether those that are there are of this job; otherwise its first one replaces them.
    """

    def __init__(self, output_dir: Path, keep: int = 1, in_place: bool = True) -> None:
        self.path, self._keep, self._in_place = output_dir / FOLDER, keep, in_place

    def save(self, checkpoint: Checkpoint) -> Path:
        """Adds one and removes those that are too old; raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        for killed in self.path.glob("*.partial"):
            killed.unlink(missing_ok=True)
        path = self.path / f"round_{checkpoint.round:06}.pt"
        write(checkpoint, path)
        for old in self.files()[self._keep :] if self._in_place else self.files():
            if old != path:
                old.unlink(missing_ok=True)
        self._in_place = True
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
