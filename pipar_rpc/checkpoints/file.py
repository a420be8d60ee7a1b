"""Training as a file: everything from which it goes on as if nothing had happened.

Random numbers are not in it: every random choice has a generator named after what it decides (`seeds`).
"""

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pipar_rpc
from pipar_rpc.base.disk import write_whole
from pipar_rpc.base.errors import UserError, first_line
from pipar_rpc.base.states import State
from pipar_rpc.coordination.rounds import Position, Start
from pipar_rpc.results.run_files import CHECKPOINTS, checkpoints_of

log = logging.getLogger(__name__)

KIND = "pipar_rpc checkpoint "
FORMAT = f"{KIND}1"


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
        rows: of the epochs that have ended; see `pipar_rpc.results.columns`.
        elapsed_s: emulated seconds since the training began, without interruptions; for bandwidth traces.
        num_iterations: trained, on the device with the most.
        rule: what the aggregation rule remembers, by names of its own.
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
    num_iterations: int = 0
    rule: State = field(default_factory=dict)

    @property
    def beginnings(self) -> list[tuple[State, State]]:
        """Weights and momentum of each device's network."""
        shared = len(self.networks) == 1
        return [(self.networks[0 if shared else k], own) for k, own in enumerate(self.momentum)]

    def start(self, time_scale: float) -> Start:
        """Where the training goes on.

        Args:
            time_scale: emulated seconds in a real one.
        """
        position = Position(self.epoch, self.iteration)
        return Start(position, self.round, self.num_iterations, self.elapsed_s / time_scale)

    @property
    def ends(self) -> dict[str, int]:
        """The first step of each kind that is written, maybe once more, after it; by what is counted."""
        return {
            "epoch": self.rows[-1]["epoch"] if self.rows else 0,  # rows are shown after it was written
            "iteration": self.num_iterations + 1,
            "second": int(self.elapsed_s),
            "round": self.round + 1,
        }

    @property
    def where(self) -> str:
        """In words."""
        inside = f", iteration {self.iteration}" if self.iteration else ""
        return f"the end of round {self.round} (next: epoch {self.epoch}{inside})"


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the file whole or not at all; raises OSError."""
    content = {entry.name: getattr(checkpoint, entry.name) for entry in fields(checkpoint)}
    head = {"format": FORMAT, "version": pipar_rpc.__version__, "digest": _digest(content)}
    write_whole(path, lambda file: torch.save({**head, **content}, file))


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint; nothing in it can run code. Raises UserError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch's readers fail in every way on what is damaged or not theirs
        raise UserError(f"{path}: not a whole checkpoint: {first_line(error)}") from error
    foreign = UserError(f"{path}: not a checkpoint of this version of pipar_rpc{_other_version(content)}")
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise foreign
    own = {key: value for key, value in content.items() if key not in {"format", "version", "digest"}}
    if _digest(own) != content.get("digest"):
        raise UserError(f"{path}: not a whole checkpoint: its content has changed")
    try:
        return Checkpoint(**own)
    except TypeError as error:  # of a later version
        raise foreign from error


def _other_version(content: Any) -> str:
    """Which version has written a checkpoint that this one cannot read, if it is one at all."""
    if not isinstance(content, Mapping) or not str(content.get("format")).startswith(KIND):
        return ""
    version = content.get("version")
    writer = "" if version is None else f", {version}"
    return f", {pipar_rpc.__version__}, but of another version{writer}"


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
        on_saved: called whenever one of a round that was trained is complete.
    """

    def __init__(
        self,
        output_dir: Path,
        keep: int = 1,
        in_place: bool = True,
        on_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self._keep, self._in_place = output_dir / CHECKPOINTS, keep, in_place
        self._on_saved = on_saved

    def save(self, checkpoint: Checkpoint) -> Path:
        """Adds one and removes those that are too old; raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"round_{checkpoint.round:06}.pt"
        write(checkpoint, path)
        for old in self.files()[self._keep :] if self._in_place else self.files():
            if old != path:
                old.unlink(missing_ok=True)
        self._in_place = True
        if checkpoint.round:  # before the first round nothing has been trained that could replace anything
            self._on_saved()
        return path

    def files(self) -> list[Path]:
        """From the newest to the oldest; raises UserError if the folder cannot be read."""
        return checkpoints_of(self.path.parent)

    def latest(self) -> Checkpoint | None:
        """The newest that can be read, and says which cannot; None if there is none.

        Raises:
            UserError: there are some, but none can be read.
        """
        unread: list[UserError] = []
        for path in self.files():
            try:
                checkpoint = read(path)
            except UserError as error:
                unread.append(error)
                continue
            for damaged in unread:
                log.warning("%s; the one before it is used", damaged)
            return checkpoint
        if unread:
            raise UserError(f"{unread[0]}; no other can be read")
        return None
