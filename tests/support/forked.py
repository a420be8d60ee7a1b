"""Processes that run the command without the seconds of imports: copies of one that has imported it all."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

PRELOADED = ["pipar_rpc.device_rank", "pipar_rpc.server_rank", "torch._dynamo", "torchvision"]


@cache
def _context(root: Path) -> Any:
    """Copies are made of a process that has imported and not yet computed, so that a copy may begin anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _body(module: str, arguments: list[str], directory: Path, files: list[Path], env: dict[str, str]) -> None:
    """`python -m module arguments` in `directory`, its output in two files, as the first of a session."""
    os.setsid()
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    root, package = Path(env["PYTHONPATH"]), sys.modules["pipar_rpc"]
    assert Path(package.__path__[0]).parent == root
    package.PARENT = os.getppid()  # type: ignore[attr-defined]
    os.environ.clear()
    os.environ.update(env)
    os.chdir(directory)
    sys.path[:] = [str(directory), str(root), *sys.path]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Forked:
    """Such a process, with the part of subprocess.Popen's interface that tests use."""

    def __init__(
        self, module: str, arguments: list[str], directory: Path, output: Path, env: Mapping[str, str]
    ) -> None:
        self.args = [module, *arguments]
        self._files = [output.with_suffix(f".{name}") for name in ("out", "err")]
        for file in self._files:
            file.touch()
        args = (module, arguments, directory, self._files, dict(env))
        self._process = _context(Path(env["PYTHONPATH"])).Process(target=_body, args=args, daemon=True)
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As of subprocess: of a process that a signal ended, the signal's number, negative."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote until it ended."""
        self.wait(timeout)
        out, err = (file.read_text() for file in self._files)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
