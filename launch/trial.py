"""A training of four ranks in processes of their own, for what kills them."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
NUM_RANKS = 4
PATIENCE_S = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Trial:
    """A training in a folder of its own.

    Attributes:
        folder: working directory.
        overrides: command line of pipar_rpc.
        started: all processes that were started.
        ports: ports at which they met.
    """

    folder: Path
    overrides: tuple[str, ...]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    def start(self, way: str, *more: str) -> list[subprocess.Popen[bytes]]:
        """Starts all ranks; returns what a kill is to hit: the processes, or their torchruns."""
        port = free_port()
        self.ports.append(port)
        module = ["-m", "pipar_rpc", *self.overrides, *more]
        torchrun = ["-m", "torch.distributed.run", "--max-restarts=3", "--master-addr=127.0.0.1"]
        torchrun.append(f"--master-port={port}")
        if way == "torchrun":
            return [self._start([*torchrun, f"--nproc-per-node={NUM_RANKS}", *module])]
        ranks = range(NUM_RANKS)
        if way == "hosts":
            nodes = [*torchrun, f"--nnodes={NUM_RANKS}", "--nproc-per-node=1"]
            return [self._start([*nodes, f"--node-rank={rank}", *module]) for rank in ranks]
        size = str(NUM_RANKS)
        shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
        shared["MASTER_PORT"] = str(port)
        return [self._start(module, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in ranks]

    def _start(self, arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "log").open("ab")
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        self.started.append(process)
        return process

    def wait_for(self, pattern: str) -> None:
        """Waits until there is such a file, but not for ever."""
        deadline = time.monotonic() + PATIENCE_S
        while not list(self.folder.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.02)

    def wait(self, processes: list[subprocess.Popen[bytes]]) -> list[int]:
        """Their exit codes; kills everything and raises TimeoutExpired if they do not end."""
        deadline = time.monotonic() + PATIENCE_S
        try:
            return [process.wait(max(0.0, deadline - time.monotonic())) for process in processes]
        except subprocess.TimeoutExpired:
            for process in self.started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            raise

    def train(self, *more: str) -> Path:
        """A training that nobody disturbs; returns its folder."""
        codes = self.wait(self.start("torchrun", "hydra.run.dir=run", *more))
        assert codes == [0], self.log()
        return self.folder / "run"

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def left_over(self) -> list[str]:
        """Processes of these sessions that live, and ports on which somebody listens."""
        sessions, found = {process.pid for process in self.started}, []
        for process in psutil.process_iter(["pid", "status"]):
            try:
                if process.info["status"] != psutil.STATUS_ZOMBIE and os.getsid(process.pid) in sessions:
                    found.append(f"process {process.pid}")
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        listening = {
            connection.laddr.port
            for connection in psutil.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN and connection.laddr
        }
        return found + [f"port {port}" for port in self.ports if port in listening]
