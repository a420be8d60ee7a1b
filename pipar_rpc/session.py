"""The RPC group: joining and leaving. No knowledge of training.

Rank 0 (worker "server") drives. Every other rank (worker "device<rank>") lets rank 0 place objects on it and
waits in `Session.serve` until it is dismissed.
"""

import platform
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed import rpc

import pipar_rpc
from pipar_rpc import actor
from pipar_rpc.errors import PeerError, UserError, first_line
from pipar_rpc.worker import watchdog

SERVER = "server"
PING_INTERVAL_S = 5.0
LEAVE_TIMEOUT_S = 30.0
ABRUPT_LEAVE_TIMEOUT_S = 8.0


def worker_name(rank: int) -> str:
    """RPC name of a rank: "server" or "device<rank>"."""
    return SERVER if rank == 0 else f"device{rank}"


@dataclass
class _Group:
    """What the RPC handlers of this process share."""

    dismissed: threading.Event = field(default_factory=threading.Event)
    graceful: bool = True


_group = _Group()


def _ping() -> None:
    return None


def _versions() -> dict[str, str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, "torch": torch.__version__.split("+")[0], "pipar_rpc": pipar_rpc.__version__}


def _dismiss(graceful: bool) -> None:
    _group.graceful = graceful
    _group.dismissed.set()


class Session:
    """This process's membership of the RPC group; obtained from `join`."""

    def __init__(self, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank, self.world_size = rank, world_size
        self._timeout_s = timeout_s

    def check_versions(self) -> None:
        """Raises UserError if a device runs another version of Python, torch or this package."""
        own = _versions()
        for rank in range(1, self.world_size):
            theirs = actor.request(worker_name(rank), _versions, (), self._timeout_s).result()
            for name, version in own.items():
                if theirs.get(name) != version:
                    raise UserError(
                        f"{worker_name(rank)} runs {name} {theirs.get(name)}, the server {version}: "
                        "install the same version on both"
                    )

    def serve(self) -> None:
        """Waits on a device until the server dismisses it; raises PeerError if the server is gone."""
        while not _group.dismissed.wait(PING_INTERVAL_S):
            try:
                rpc.rpc_sync(SERVER, _ping, timeout=self._timeout_s)
            except RuntimeError as error:
                if not _group.dismissed.is_set():
                    raise PeerError(
                        f"{worker_name(self.rank)} lost the server: {first_line(error)}"
                    ) from error

    def dismiss(self) -> bool:
        """Tells all devices that the work is done; returns whether all can leave together."""
        names = [worker_name(rank) for rank in range(1, self.world_size)]
        graceful = _all_answer(names, _ping)
        return _all_answer(names, _dismiss, graceful) and graceful


def _all_answer(names: list[str], function: Callable[..., Any], *args: Any) -> bool:
    replies = [actor.request(name, function, args, LEAVE_TIMEOUT_S) for name in names]
    errors = [reply.exception() for reply in replies]
    return not any(errors)


@contextmanager
def join(rank: int, world_size: int, local: Any, timeout_s: float) -> Iterator[Session]:
    """Joins the RPC group of all ranks (address and port from torchrun's environment), leaves it at the end.

    Transport is plain TCP: torch's default shared-memory channels bypass emulated networks and poll.

    Args:
        rank: 0 for the server.
        world_size: number of ranks.
        local: handed to the factories of objects that are placed here.
        timeout_s: longest wait for the other ranks at the start, and for any sign of life of the server
            later. A ping queues behind bulk data on the same line, so it must exceed the longest transfer.

    Raises:
        PeerError: the group did not come together.
    """
    global _group  # noqa: PLW0603  RPC handlers are module functions: they need to find it
    _group = _Group()
    actor.reset(local)
    name = worker_name(rank)
    options = rpc.TensorPipeRpcBackendOptions(rpc_timeout=timeout_s, _transports=["uv"], _channels=["basic"])
    waited = f"rank {rank} ({name}) waited {timeout_s:.0f} s for the other {world_size - 1} ranks to join"
    with warnings.catch_warnings(), watchdog(timeout_s + 5, f"pipar_rpc: error: {waited}"):
        warnings.filterwarnings("ignore", message="You are using a Backend", category=UserWarning)
        try:
            rpc.init_rpc(name, rank=rank, world_size=world_size, rpc_backend_options=options)
        except RuntimeError as error:
            raise PeerError(f"rank {rank} ({name}) could not join the others: {first_line(error)}") from error
    session = Session(rank, world_size, timeout_s)
    graceful = False
    try:
        yield session
        graceful = _group.graceful
    finally:
        if rank == 0:
            graceful = session.dismiss()
        # Without the others' consent, torch waits for its handlers, and one that looks for an object whose
        # reference a dying server has already deleted never ends.
        patience_s = LEAVE_TIMEOUT_S + 5 if graceful else ABRUPT_LEAVE_TIMEOUT_S
        with watchdog(patience_s, f"pipar_rpc: error: {name} could not leave the group cleanly"):
            rpc.shutdown(graceful=graceful, timeout=LEAVE_TIMEOUT_S if graceful else 0)
