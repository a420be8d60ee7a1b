"""Whether results can be written, found out before the training."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipar_rpc.base.errors import UserError

MARGIN_BYTES = 20_000_000  # for logs, tables and pictures


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else writes into the folder meanwhile; raises UserError if somebody does."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"hydra.run.dir={folder}: another run is writing there") from error


def check_room(folder: Path, num_bytes: int, key: str) -> None:
    """Raises UserError unless files of that size can be written into a folder, which need not exist yet.

    Args:
        folder: where to.
        num_bytes: of what is kept there, but for logs, tables and pictures.
        key: of the configuration, that says where.
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
