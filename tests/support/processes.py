"""Running the real thing: torchrun, or the ranks without it, in processes of their own with a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tests.support.forked import Forked

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
Started = subprocess.Popen[str] | Forked
RUN_S, PATIENCE_S = 400.0, 150.0  # slow is not dead, and a wait that ends early costs nothing


@dataclass
class Finished:
    """A process that has ended."""

    code: int
    out: str
    err: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**extra: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")}
    return {**clean, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT), **extra}


def survivors(processes: list[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Those that live on after `timeout` seconds, and are killed now; whoever has ended may not be reaped."""
    _, left = psutil.wait_procs(processes, timeout)
    alive = [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    return alive


def wait_until(condition: Callable[[], Any], timeout: float = PATIENCE_S) -> Any:
    """Waits until `condition` gives something, for at most `timeout` seconds; returns what it gave last."""
    deadline = time.monotonic() + timeout
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@dataclass
class Processes:
    """Starts processes in a working directory; ends whatever is left of them and their children."""

    directory: Path
    started: list[Started] = field(default_factory=list)

    def start(self, command: list[str], **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: Started, timeout: float = RUN_S) -> Finished:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill(process)
            out, err = process.communicate()
            pytest.fail(f"not done after {timeout} s:\n{out}\n{err}")
        return Finished(process.wait(), out, err)

    def start_torchrun(
        self, num_ranks: int, *overrides: str, module: str = "pipar_rpc", options: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        """The command of the README, with its own port."""
        command = [*TORCHRUN, f"--nproc-per-node={num_ranks}", *options]
        return self.start([*command, f"--master-port={free_port()}", "-m", module, *overrides])

    def start_hosts(self, num_ranks: int, max_restarts: int, *overrides: str) -> list[subprocess.Popen[str]]:
        """A torchrun for each rank, as on several machines."""
        options = [f"--nnodes={num_ranks}", "--nproc-per-node=1", f"--max-restarts={max_restarts}"]
        options += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
        return [
            self.start([*TORCHRUN, *options, f"--node-rank={rank}", "-m", "pipar_rpc", *overrides])
            for rank in range(num_ranks)
        ]

    def torchrun(
        self, num_ranks: int, *overrides: str, timeout: float = RUN_S, module: str = "pipar_rpc"
    ) -> Finished:
        return self.finish(self.start_torchrun(num_ranks, *overrides, module=module), timeout)

    def ranks(
        self,
        num_ranks: int,
        *overrides: str,
        only: tuple[int, ...] = (),
        module: str = "pipar_rpc",
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> list[Forked]:
        """The ranks without torchrun's agent, which would end all others when one dies.

        They are copies of a process that has imported the package: three begin in a tenth of torchrun's time.
        """
        common = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **env}
        started = []
        for rank in only or range(num_ranks):
            own = environment(**common, RANK=str(rank), LOCAL_RANK=str(rank))
            output = self.directory.with_name(f"{self.directory.name}_{len(self.started)}")
            started.append(Forked(module, list(overrides), self.directory, output, own))
            self.started.append(started[-1])
        return started

    def training(
        self, num_ranks: int, *overrides: str, timeout: float = RUN_S, module: str = "pipar_rpc"
    ) -> Finished:
        """Ranks that meet in a store as under torchrun, for tests of what they do and not of torchrun.

        The code is the server's; if it is not 0, the devices are told to end, as torchrun does.
        """
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        agent = {"RUN_ID": "tests", "USE_AGENT_STORE": "True", "RESTART_COUNT": "0", "MAX_RESTARTS": "0"}
        env = {f"TORCHELASTIC_{name}": value for name, value in agent.items()}
        env |= {"MASTER_PORT": str(store.port), "GROUP_WORLD_SIZE": "1"}
        server, *devices = self.ranks(num_ranks, *overrides, module=module, env=env)
        ended = [self.finish(server, timeout)]
        for device in devices if ended[0].code else ():
            device.send_signal(signal.SIGTERM)
        ended += [self.finish(device, PATIENCE_S) for device in devices]
        out, err = ("\n".join(filter(None, (getattr(rank, key) for rank in ended))) for key in ("out", "err"))
        assert ended[0].code or not any(rank.code for rank in ended), err
        return Finished(ended[0].code, out, err)

    def wait_for(self, pattern: str, timeout: float = PATIENCE_S) -> Path:
        """Waits until a file that matches `pattern` exists in the working directory."""
        found: list[Path] = wait_until(lambda: sorted(self.directory.glob(pattern)), timeout)
        assert found, f"no {pattern} after {timeout} s"
        return found[0]

    @staticmethod
    def kill(process: Started) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # the session that start() gave it: children too
        except ProcessLookupError:  # it has ended, or has no session yet
            process.kill()

    def left_over(self) -> list[int]:
        """Pids of sessions that still have a living process."""
        sessions = {process.pid for process in self.started}
        alive = set()
        for other in psutil.process_iter(["pid", "status"]):
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if other.info["status"] != psutil.STATUS_ZOMBIE:
                    alive.add(os.getsid(other.pid))
        return sorted(sessions & alive)

    def end_all(self) -> None:
        """Kills what is left, and waits for all."""
        left = self.left_over()
        for process in self.started:
            if process.pid in left:
                self.kill(process)
            if isinstance(process, subprocess.Popen):
                for stream in (process.stdout, process.stderr):
                    if stream:
                        stream.close()
            process.wait()


def end(process: Started, timeout: float = PATIENCE_S) -> tuple[int, str]:
    """Waits for the end of a process that is expected to end by itself; returns its code and output."""
    out, err = process.communicate(timeout=timeout)
    return process.wait(), out + err


def run(processes: Processes, *overrides: str) -> Finished:
    """A training of two devices that ends well."""
    done = processes.training(3, *overrides)
    assert done.code == 0, done.err
    return done


def child_of(torchrun: subprocess.Popen[str], index: int = 0) -> psutil.Process:
    """The process of a rank."""
    return sorted(psutil.Process(torchrun.pid).children(), key=lambda child: child.pid)[index]
