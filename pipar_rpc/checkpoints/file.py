"""A training as a file, with all that it needs to go on as if nothing had happened.

Random states are not in it: every random choice has a generator named after what it decides (`seeds`).
"""

import logging
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import accumulate
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
RENAMED = {"momentum": "optimizers"}  # fields of files that earlier versions wrote


@dataclass
class Checkpoint:
    """A job at the end of a round.

    Attributes:
        round: number of rounds that were trained.
        epoch: epoch in which to go on, from 1; larger than the job's epochs at the end of the training.
        iteration: iteration at which to go on, from 0.
        networks: global network; or the network of each device, if they are never averaged.
        optimizers: state of each device's optimisers by parameters' names; a shared half shares tensors.
        cuts: P and N of each device.
        settings: values of the configuration keys that must be the same for training to go on.
        rows: rows of the epochs that have ended; see `pipar_rpc.results.columns`.
        elapsed_s: emulated seconds since the training began, without interruptions; for bandwidth traces.
        num_iterations: number of iterations trained, on the device with the most.
        rule: state of the aggregation rule, by names of its own.
        best: network of the epoch with the highest accuracy so far; empty if none was evaluated.
        exposed: how often each device's data was used; see `pipar_rpc.privacy.ledger`.
        noise: noise multiplier of DP-SGD on each device; None without it. Empty if it is from before that.
    """

    round: int
    epoch: int
    iteration: int
    networks: list[State]
    optimizers: list[State]
    cuts: list[tuple[int, int]]
    settings: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    elapsed_s: float = 0.0
    num_iterations: int = 0
    rule: State = field(default_factory=dict)
    best: State = field(default_factory=dict)
    exposed: list[dict[str, Any]] = field(default_factory=list)
    noise: list[float | None] = field(default_factory=list)

    @property
    def beginnings(self) -> list[tuple[State, State]]:
        """Returns the weights of each device's network, and the state of its optimisers."""
        shared = len(self.networks) == 1
        return [(self.networks[0 if shared else k], state) for k, state in enumerate(self.optimizers)]

    def start(self, time_scale: float) -> Start:
        """Returns where the training goes on.

        Args:
            time_scale: number of emulated seconds in a real one.
        """
        position = Position(self.epoch, self.iteration)
        return Start(position, self.round, self.num_iterations, self.elapsed_s / time_scale)

    @property
    def ends(self) -> dict[str, int]:
        """Returns the first step of each kind that will be written after this checkpoint, maybe once more."""
        return {
            "epoch": self.rows[-1]["epoch"] if self.rows else 0,  # rows are shown after it was written
            "iteration": self.num_iterations + 1,
            "second": int(self.elapsed_s),
            "round": self.round + 1,
        }

    @property
    def where(self) -> str:
        """Says in words where the training goes on."""
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
    except Exception as error:  # torch's readers fail in many ways on damaged or foreign files
        raise UserError(f"{path}: not a whole checkpoint: {first_line(error)}") from error
    foreign = UserError(f"{path}: not a checkpoint of this version of pipar_rpc{_other_version(content)}")
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise foreign
    fields = {key: value for key, value in content.items() if key not in {"format", "version", "digest"}}
    if _digest(fields) != content.get("digest"):
        raise UserError(f"{path}: not a whole checkpoint: its content has changed")
    fields |= {new: fields.pop(old) for old, new in RENAMED.items() if old in fields}
    try:
        return Checkpoint(**fields)
    except TypeError as error:  # a later version wrote it
        raise foreign from error


def _other_version(content: Any) -> str:
    """Names the version that has written a checkpoint which this one cannot read, if it is one at all."""
    if not isinstance(content, Mapping) or not str(content.get("format")).startswith(KIND):
        return ""
    version = content.get("version")
    writer = "" if version is None else f", {version}"
    return f", {pipar_rpc.__version__}, but of another version{writer}"


def _digest(value: Any, before: int = 0) -> int:
    """Computes a CRC-32 of everything in a checkpoint: torch does not notice all damage to a file."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        numbers: Any = flat.view(torch.uint8).numpy()
        return zlib.crc32(numbers, before)
    if isinstance(value, Mapping):
        for key, item in value.items():
            before = _digest(item, zlib.crc32(repr(key).encode(), before))
        return before
    if isinstance(value, list | tuple):
        for item in value:
            before = _digest(item, before)
        return before
    return zlib.crc32(repr(value).encode(), before)


class CheckpointFolder:
    """The last checkpoints of a job.

    Args:
        output_dir: folder of the job.
        keep: number of checkpoints that are kept.
        in_place: whether the checkpoints there are this job's; otherwise its first one replaces them.
        on_saved: function called whenever the checkpoint of a trained round is complete.
        most_bytes: bytes of those that are kept; the newest is kept whatever its size.
    """

    def __init__(
        self,
        output_dir: Path,
        keep: int = 1,
        in_place: bool = True,
        on_saved: Callable[[], None] = lambda: None,
        most_bytes: float = math.inf,
    ) -> None:
        self.path, self._keep, self._in_place = output_dir / CHECKPOINTS, keep, in_place
        self._on_saved, self._most_bytes = on_saved, most_bytes

    def save(self, checkpoint: Checkpoint) -> Path:
        """Adds a checkpoint and removes those that are too old; raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"round_{checkpoint.round:06}.pt"
        write(checkpoint, path)
        for old in self._too_old() if self._in_place else self.files():
            if old != path:
                old.unlink(missing_ok=True)
        self._in_place = True
        if checkpoint.round:  # before the first round nothing has been trained that could replace anything
            self._on_saved()
        return path

    def _too_old(self) -> list[Path]:
        """Lists those that are not kept."""
        files = self.files()
        sizes = accumulate(path.stat().st_size for path in files)
        fit = sum(size <= self._most_bytes for size in sizes)
        return files[max(1, min(self._keep, fit)) :]

    def files(self) -> list[Path]:
        """Lists the checkpoints, the newest first; raises UserError if the folder cannot be read."""
        return checkpoints_of(self.path.parent)

    def latest(self) -> Checkpoint | None:
        """Returns the newest checkpoint that can be read and logs which cannot; None if there is none.

        Raises:
            UserError: there are checkpoints, but none can be read.
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
