"""The RPC group: joining and leaving it, without knowledge of training.

Rank 0 (worker "server") drives. Every other rank (workers "server2", ... and "device1", ..., or "worker1",
... where one holds several devices) lets rank 0 place objects on it and waits in `Session.serve` until it is
dismissed.
"""

import logging
import math
import os
import platform
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVarTuple

import torch
from torch.distributed import rpc

import pipar_rpc
from pipar_rpc.base.errors import PeerError, UserError, first_line
from pipar_rpc.base.ranks import SERVER, World
from pipar_rpc.base.threads import watchdog
from pipar_rpc.plan.node import Node
from pipar_rpc.transport import network_access, remote_object, workers
from pipar_rpc.transport.rendezvous import Meeting

Ts = TypeVarTuple("Ts")

log = logging.getLogger(__name__)

PING_INTERVAL_S = 5.0
LEAVE_TIMEOUT_S = 30.0
# Handlers only queue, so a few are enough; with more, each finds its caches cold.
HANDLER_THREADS = 4
MIN_JOIN_S = 10.0
ABRUPT_LEAVE_TIMEOUT_S = 8.0


@dataclass
class _Group:
    """What the RPC handlers of this process share."""

    dismissed: threading.Event = field(default_factory=threading.Event)
    graceful: bool = True
    exit_code: int = 0
    deadlines_s: dict[str, float] = field(default_factory=dict)


_group = _Group()


def _ping() -> None:
    return None


def _still_wanted(name: str) -> bool:
    return not workers.is_lost(name)


def expect(name: str, deadline_s: float) -> None:
    """Sets the seconds of silence after which a device takes the server for lost.

    Of several devices in one process the one that waits longest decides.

    Args:
        name: name of the device.
        deadline_s: seconds of silence.
    """
    _group.deadlines_s[name] = deadline_s


@dataclass(frozen=True)
class _Member:
    """What a rank says of itself.

    Attributes:
        versions: versions of the software that must be the same everywhere.
        restarts: number of times that torchrun would still start it again.
        host: number of its torchrun, one for each machine.
    """

    versions: dict[str, str]
    restarts: int
    host: int


def _introduce() -> _Member:
    python, pytorch = ".".join(platform.python_version_tuple()[:2]), torch.__version__.split("+")[0]
    return _Member(
        {"python": python, "torch": pytorch, "pipar_rpc": pipar_rpc.__version__},
        _number("TORCHELASTIC_MAX_RESTARTS") - _number("TORCHELASTIC_RESTART_COUNT"),
        _number("GROUP_RANK"),
    )


def _number(variable: str) -> int:
    return int(os.environ.get(variable, "0"))


def _dismiss(graceful: bool, exit_code: int) -> None:
    _group.graceful, _group.exit_code = graceful, exit_code
    _group.dismissed.set()


class Session:
    """This process's membership of the RPC group; obtained from `join`."""

    def __init__(self, rank: int, names: Sequence[str], timeout_s: float, meeting: Meeting | None) -> None:
        self.rank, self._names = rank, names
        self.exit_code = 1  # unless all goes well
        self._timeout_s, self._meeting = timeout_s, meeting
        self._members = [_introduce()]

    def meet(self) -> None:
        """Gets to know the others; raises UserError if one runs another version than the server does."""
        own = self._members[0].versions
        for other in self._names[1:]:
            member = remote_object.request(other, _introduce, (), self._timeout_s).result()
            self._members.append(member)
            for name, version in own.items():
                if member.versions.get(name) != version:
                    raise UserError(
                        f"{other} runs {name} {member.versions.get(name)}, the server {version}: "
                        "install the same version on both"
                    )

    def returned(self) -> list[str]:
        """The names of lost devices that have come back, and would be in a group that is formed now."""
        lost = [rank for rank, name in enumerate(self._names) if workers.is_lost(name)]
        if self._meeting is None or not lost:
            return []
        return [self._names[rank] for rank in lost if self._meeting.returned(rank)]

    @property
    def can_regroup(self) -> bool:
        """Whether torchrun would start all ranks again."""
        return all(member.restarts > 0 for member in self._members)

    def serve(self) -> int:
        """Waits until rank 0 dismisses this process; returns the exit code that rank 0 gave.

        Raises:
            PeerError: rank 0 is gone, or has given this process up.
        """
        name = self._names[self.rank]
        while not _group.dismissed.wait(PING_INTERVAL_S):
            deadline_s = min(self._timeout_s, max(_group.deadlines_s.values(), default=math.inf))
            try:
                wanted = rpc.rpc_sync(SERVER, _still_wanted, args=(name,), timeout=deadline_s)
            except RuntimeError as error:
                if _group.dismissed.is_set():
                    break
                raise PeerError(f"{name} lost the server: {first_line(error)}") from error
            if not wanted and not _group.dismissed.is_set():
                raise PeerError(f"{name} was given up by the server, which had waited for it")
        return _group.exit_code

    def dismiss(self) -> bool:
        """Tells all devices that the work is done; returns whether all can leave together."""
        names = self._names[1:]
        graceful = _all_answer(names, _ping)
        dismissed = _all_answer(names, _dismiss, graceful, self.exit_code)
        if self._meeting is not None and self.exit_code == 0:
            hosts = {member.host for member in self._members}
            living = {
                member.host
                for name, member in zip(self._names, self._members, strict=True)
                if not workers.is_lost(name)
            }
            try:
                self._meeting.end(len(hosts - living))
            except PeerError as error:  # then torchrun is gone, and nobody waits for anything
                log.warning("%s", error)
        return dismissed and graceful


def _all_answer(names: Sequence[str], function: Callable[[*Ts], None], *args: *Ts) -> bool:
    replies = [remote_object.request(name, function, args, LEAVE_TIMEOUT_S) for name in names]
    errors = [reply.exception() for reply in replies]
    return not any(errors)


def _init_rpc(rank: int, names: Sequence[str], join_s: float, init_method: str) -> None:
    """Has torch connect all ranks within `join_s` seconds."""
    name, world_size = names[rank], len(names)
    options = rpc.TensorPipeRpcBackendOptions(
        rpc_timeout=join_s,
        init_method=init_method,
        num_worker_threads=HANDLER_THREADS,
        _transports=["uv"],
        _channels=["basic"],
    )
    waited = f"rank {rank} ({name}) waited {join_s:.0f} s for the other {world_size - 1} ranks to join"
    with warnings.catch_warnings(), watchdog(join_s + 5, f"pipar_rpc: error: {waited}"):
        warnings.filterwarnings("ignore", message="You are using a Backend", category=UserWarning)
        try:
            rpc.init_rpc(name, rank=rank, world_size=world_size, rpc_backend_options=options)
        except RuntimeError as error:
            raise PeerError(f"rank {rank} ({name}) could not join the others: {first_line(error)}") from error


@contextmanager
def join(
    world: World,
    local: Node,
    timeout_s: float,
    meeting: Meeting | None,
    listening: network_access.Binding,
) -> Iterator[Session]:
    """Joins the RPC group of all ranks (address and port from torchrun's environment), leaves it at the end.

    Transport is plain TCP: torch's default shared-memory channels bypass emulated networks and poll.

    Args:
        world: this process's place; all ranks agree on the number of servers.
        local: this machine, handed to the factories of objects that are placed here.
        timeout_s: longest wait, in seconds, for the other ranks at the start, and for a sign of life of the
            server later. A ping queues behind bulk data on the line, so it must exceed the longest transfer.
        meeting: place where the ranks find each other; None for the address in the environment.
        listening: address that this process may listen on.

    Raises:
        PeerError: the group did not come together.
        UserError: this process listens elsewhere, and has to end at once: it does not leave the group.
    """
    global _group  # noqa: PLW0603  RPC handlers are module functions: they need to find it
    _group = _Group()
    rank, names = world.rank, world.names
    workers.reset(local, names)
    join_s = timeout_s if meeting is None else max(MIN_JOIN_S, timeout_s / 4)  # in a meeting all are there
    _init_rpc(rank, names, join_s, meeting.init_method() if meeting else "env://")
    network_access.verify(listening)
    rpc._set_rpc_timeout(timeout_s)  # type: ignore[attr-defined]
    session = Session(rank, names, timeout_s, meeting)
    graceful = False
    try:
        yield session
        graceful = _group.graceful
    finally:
        if rank == 0:
            graceful = session.dismiss()
        # Without the others' consent, torch waits for its handlers, and one that looks for an object whose
        # reference a dying server has already deleted never ends.
        deadline_s = LEAVE_TIMEOUT_S + 5 if graceful else ABRUPT_LEAVE_TIMEOUT_S
        with watchdog(deadline_s, f"pipar_rpc: error: {names[rank]} could not leave the group cleanly"):
            rpc.shutdown(graceful=graceful, timeout=LEAVE_TIMEOUT_S if graceful else 0)
