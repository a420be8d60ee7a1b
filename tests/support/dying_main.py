"""The ordinary command; but the first server that torchrun starts dies while it writes the last model."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pipar_rpc import job
from pipar_rpc.__main__ import main
from pipar_rpc.base.disk import write_whole
from pipar_rpc.results.run_files import MODEL


def half(file: BinaryIO) -> None:
    file.write(b"half a model")
    file.flush()
    os._exit(1)


def write(path: Path, whole: Callable[[BinaryIO], object]) -> None:
    write_whole(path, half if path.name == MODEL else whole)


if os.environ["RANK"] == "0" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    job.write_whole = write  # type: ignore[assignment, attr-defined]
main()
