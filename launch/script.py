"""How the scripts of this folder end, and where those went that are part of the package now."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

from pipar_rpc.base.command import run_command


def run_script(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and exits as commands of the package do; with one line and 1 if what it started failed."""

    def checked() -> int | None:
        try:
            return main()
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip() if error.stderr else f"ended with {error.returncode}"
            sys.exit(f"{name}: error: {' '.join(error.cmd)}: {said}")

    run_command(checked, name)


def single_threaded(*command: str) -> None:
    """Runs a command whose processes compute on one thread each; raises CalledProcessError if it fails."""
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def forward(old: str, new: str) -> None:
    """Says on stderr what a command is called now, and runs it."""
    print(f"python -m {old} is now python -m {new}", file=sys.stderr)
    runpy.run_module(new, run_name="__main__", alter_sys=True)
