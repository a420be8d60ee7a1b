"""How results get to the disk: whether they fit, by one writer at a time, and whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from pipar_rpc.base.errors import UserError, first_line

LOCK = ".lock"
MARGIN_BYTES = 20_000_000  # for logs, tables and pictures


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else writes into the folder, which is made, meanwhile; raises UserError if somebody does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"hydra.run.dir={folder}: cannot be made: {error.strerror}") from error
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"hydra.run.dir={folder}: another run is writing there") from error


def check_room(folder: Path, num_bytes: int, key: str) -> None:
    """Raises UserError unless files of that size can be written into a folder, which need not exist yet.

    Args:
        folder: folder to be written to.
        num_bytes: bytes that will be kept there, but for logs, tables and pictures.
        key: configuration key that names the folder.
    """
    base = folder.absolute()
    while not base.exists():
        base = base.parent
    needed = num_bytes + MARGIN_BYTES
    try:
        with tempfile.TemporaryFile(dir=base) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise UserError(f"{key}={folder}: cannot be written: {error.strerror}") from error
    free = shutil.disk_usage(base).free
    if free < needed:
        room = f"{free / 1e6:.0f} MB are free, checkpoints and results need {needed / 1e6:.0f} MB"
        raise UserError(f"{key}={folder}: {room}")


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file whole or not at all: until it is complete and on the disk, the older one stays.

    Args:
        path: path of the file; its folder has one writer at a time.
        write: function called with the open file.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(".partial")  # a killed writer's is overwritten by the next
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except RuntimeError as error:  # torch's own words for a disk that is full, or for Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise OSError(first_line(error)) from error
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
