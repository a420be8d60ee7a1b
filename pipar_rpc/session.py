"""The RPC group: joining, objects on other ranks, leaving. No knowledge of training.

Rank 0 (worker "server") drives. Every other rank (worker "device<rank>") lets rank 0 place objects on it and
waits in `Session.serve` until it is dismissed. A placed object is an actor: its methods run one after the
other on a thread of its own, so an RPC thread is never blocked, and failures come back as values.
"""

import logging
import platform
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.distributed import rpc

import pipar_rpc
from pipar_rpc.errors import PeerError, UserError, first_line
from pipar_rpc.worker import open_pool, watchdog

log = logging.getLogger(__name__)

SERVER = "server"
PING_INTERVAL_S = 5.0
PING_TIMEOUT_S = 300.0  # a ping queues behind bulk data on the same line
LEAVE_TIMEOUT_S = 30.0


def worker_name(rank: int) -> str:
    """RPC name of a rank: "server" or "device<rank>"."""
    return SERVER if rank == 0 else f"device{rank}"


class Failure(NamedTuple):
    """An exception as a value: it travels where exceptions are mangled or lost."""

    error_type: str
    message: str
    trace: str
    is_user_error: bool

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describes `error` with its traceback."""
        trace = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), trace, isinstance(error, UserError))

    def to_error(self, where: str) -> Exception:
        """The exception to raise on this side; `where` names the process that failed."""
        if self.is_user_error:
            return UserError(f"{where}: {self.message}")
        if self.error_type == PeerError.__name__:
            return PeerError(f"{where}: {self.message}")
        log.debug("%s failed:\n%s", where, self.trace)
        return PeerError(f"{where} failed: {self.error_type}: {self.message}\n{self.trace}".rstrip())


class _Actor:
    """An object placed on this rank, with the one thread that runs its methods."""

    def __init__(self, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._stack = ExitStack()
        self._thread = self._stack.enter_context(open_pool(factory.__name__))
        self._object: Future[Any] = self._thread.submit(factory, _group.local, *args)

    def call(self, method: str, args: tuple[Any, ...]) -> "torch.futures.Future[Any]":
        reply: torch.futures.Future[Any] = torch.futures.Future()

        def run() -> None:
            try:
                reply.set_result(getattr(self._object.result(), method)(*args))
            except BaseException as error:  # every failure belongs to the caller
                reply.set_result(Failure.of(error))

        self._thread.submit(run)
        return reply

    def stop(self) -> None:
        """Asks a running method to end soon, then queues `close` behind it."""
        if self._object.done() and not self._object.exception():
            self._object.result().stop()


@rpc.functions.async_execution  # type: ignore[untyped-decorator]
def _call(actor: Any, method: str, args: tuple[Any, ...]) -> "torch.futures.Future[Any]":
    return actor.local_value().call(method, args)  # type: ignore[no-any-return]


@rpc.functions.async_execution  # type: ignore[untyped-decorator]
def _close(actor: Any) -> "torch.futures.Future[Any]":
    local: _Actor = actor.local_value()
    local.stop()
    return local.call("close", ())


class Remote:
    """A reference to an object on another rank.

    Args:
        name: RPC name of the worker that holds it, e.g. "device3".
        actor: RRef of the actor.
    """

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor

    def call(self, method: str, *args: Any, timeout_s: float = 0) -> Future[Any]:
        """Runs a method of the object after those called before; returns at once.

        Args:
            method: name of the method.
            args: its arguments.
            timeout_s: seconds after which the future fails; 0 for no limit (the caller watches it).

        Returns:
            A future with the method's result. It fails with PeerError if the method or the connection
            failed, and with UserError if the user can mend it.
        """
        return _request(self.name, _call, (self._actor, method, args), timeout_s)

    def close(self, timeout_s: float) -> Future[Any]:
        """Stops what runs and closes the object; the future ends when its resources are released."""
        return _request(self.name, _close, (self._actor,), timeout_s)


def _request(to: str, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> Future[Any]:
    """An RPC as a concurrent future, which can be waited for with a deadline, unlike torch's."""
    result: Future[Any] = Future()

    def finish(reply: "torch.futures.Future[Any]") -> None:
        try:
            value = reply.value()
        except Exception as error:
            result.set_exception(PeerError(f"lost {to}: {first_line(error)}"))
            return
        if isinstance(value, Failure):
            result.set_exception(value.to_error(to))
        else:
            result.set_result(value)

    try:
        rpc.rpc_async(to, function, args=args, timeout=timeout_s).add_done_callback(finish)
    except RuntimeError as error:
        result.set_exception(PeerError(f"lost {to}: {first_line(error)}"))
    return result


@dataclass
class _Group:
    """What the RPC handlers of this process share."""

    local: Any = None
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

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def place(self, rank: int, factory: Callable[..., Any], *args: Any) -> Remote:
        """Creates `factory(local, *args)` on `rank`; errors show at the first call.

        `local` is what that rank passed to `join`. The object needs methods `stop()`, which may come from
        any thread while a method runs, and `close()`.
        """
        name = worker_name(rank)
        return Remote(name, rpc.remote(name, _Actor, args=(factory, args)))

    def check_versions(self) -> None:
        """Raises UserError if a device runs another version of Python, torch or this package."""
        own = _versions()
        for rank in range(1, self.world_size):
            theirs = _request(worker_name(rank), _versions, (), PING_TIMEOUT_S).result()
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
                rpc.rpc_sync(SERVER, _ping, timeout=PING_TIMEOUT_S)
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
    replies = {name: _request(name, function, args, LEAVE_TIMEOUT_S) for name in names}
    for name, reply in replies.items():
        if error := reply.exception():
            log.warning("%s does not answer: %s", name, error)
    return not any(reply.exception() for reply in replies.values())


@contextmanager
def join(rank: int, world_size: int, local: Any, timeout_s: float) -> Iterator[Session]:
    """Joins the RPC group of all ranks (address and port from torchrun's environment), leaves it at the end.

    Transport is plain TCP: torch's default shared-memory channels bypass emulated networks and poll.

    Args:
        rank: 0 for the server.
        world_size: number of ranks.
        local: handed to the factories of objects that are placed here.
        timeout_s: longest wait for the other ranks, and the limit of RPCs without one of their own.

    Raises:
        PeerError: the group did not come together.
    """
    global _group  # noqa: PLW0603  RPC handlers are module functions: they need to find it
    _group = _Group(local)
    name = worker_name(rank)
    options = rpc.TensorPipeRpcBackendOptions(rpc_timeout=timeout_s, _transports=["uv"], _channels=["basic"])
    waited = f"rank {rank} ({name}) waited {timeout_s:.0f} s for the other {world_size - 1} ranks to join"
    with warnings.catch_warnings(), watchdog(timeout_s + 5, f"pipar_rpc: error: {waited}"):
        warnings.filterwarnings("ignore", message="You are using a Backend", category=UserWarning)
        try:
            rpc.init_rpc(name, rank=rank, world_size=world_size, rpc_backend_options=options)
        except RuntimeError as error:
            raise PeerError(f"rank {rank} ({name}) could not join the others: {first_line(error)}") from error
    session = Session(rank, world_size)
    graceful = False
    try:
        yield session
        graceful = _group.graceful
    finally:
        if rank == 0:
            graceful = session.dismiss()
        with watchdog(LEAVE_TIMEOUT_S + 5, f"pipar_rpc: error: {name} could not leave the group cleanly"):
            rpc.shutdown(graceful=graceful, timeout=LEAVE_TIMEOUT_S if graceful else 0)
