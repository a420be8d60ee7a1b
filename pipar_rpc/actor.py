"""Objects on other ranks: placed by reference, called in order, failures returned as values.

A placed object is an actor: its methods run one after the other on a thread of its own, so no RPC thread is
ever blocked. This is the shape that torch RPC asks for: a handler that blocks can leave the process without
a thread to answer with.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.distributed import rpc

from pipar_rpc.errors import Failure, LostError, first_line
from pipar_rpc.worker import InOrder, start_pool

T = TypeVar("T")
CLOSE_TIMEOUT_S = 30.0


@dataclass
class _Process:
    """What the RPC handlers of this process share.

    Attributes:
        local: handed to the factories of objects that are placed here.
        lost: workers that failed or kept silent; nobody waits for them again.
    """

    local: Any = None
    lost: set[str] = field(default_factory=set)


_process = _Process()


def reset(local: Any) -> None:
    """Prepares this process for a new RPC group."""
    _process.local = local
    _process.lost.clear()


def is_lost(name: str) -> bool:
    """Whether a worker was lost since the group came together."""
    return name in _process.lost


class _Actor:
    """An object placed on this rank, with the one thread that runs its methods."""

    def __init__(self, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._thread = start_pool(factory.__name__)
        self._object: Future[Any] = self._thread.submit(factory, _process.local, *args)
        self._in_order = InOrder(self._thread)

    def call(self, number: int, method: str, args: tuple[Any, ...]) -> "torch.futures.Future[Any]":
        """Runs a method after the calls with smaller numbers; the future gets its result or a Failure."""
        reply: torch.futures.Future[Any] = torch.futures.Future()

        def run() -> None:
            try:
                reply.set_result(getattr(self._object.result(), method)(*args))
            except BaseException as error:  # every failure belongs to the caller
                reply.set_result(Failure.of(error))

        self._in_order.submit(number, run)
        return reply

    def close(self, number: int) -> "torch.futures.Future[Any]":
        """Asks a running method to end soon; then closes the object and ends the thread."""
        if self._object.done() and not self._object.exception():
            self._object.result().stop()
        reply: torch.futures.Future[Any] = torch.futures.Future()

        def run() -> None:
            try:
                if not self._object.exception():
                    self._object.result().close()
                reply.set_result(None)
            except BaseException as error:
                reply.set_result(Failure.of(error))
            self._thread.shutdown(wait=False)

        self._in_order.submit(number, run)
        return reply


@rpc.functions.async_execution  # type: ignore[untyped-decorator]
def _call(actor: Any, number: int, method: str, args: tuple[Any, ...]) -> "torch.futures.Future[Any]":
    return actor.local_value().call(number, method, args)  # type: ignore[no-any-return]


@rpc.functions.async_execution  # type: ignore[untyped-decorator]
def _close(actor: Any, number: int) -> "torch.futures.Future[Any]":
    return actor.local_value().close(number)  # type: ignore[no-any-return]


class Remote:
    """A reference to an object on another rank.

    Args:
        name: RPC name of the worker that holds it, e.g. "device3".
        actor: RRef of the actor.
    """

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor
        self._numbers = itertools.count()

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Runs a method of the object after those called before; returns at once.

        Args:
            method: name of the method.
            args: its arguments.

        Returns:
            A future with the method's result; it has no time limit. It fails with PeerError if the method
            failed, LostError if the connection did, and with UserError if the user can mend it.
        """
        return request(self.name, _call, (self._actor, next(self._numbers), method, args), timeout_s=0)

    def wait(self, future: Future[T], timeout_s: float, to_do: str) -> T:
        """The result of a call; raises LostError if it does not come in time."""
        try:
            return future.result(timeout_s)
        except TimeoutError:
            self.abandon()
            waited = f"the server waited {timeout_s:.0f} s for {self.name} to {to_do}"
            raise LostError(waited) from None

    @property
    def lost(self) -> bool:
        """Whether the worker was given up, or its connection failed."""
        return is_lost(self.name)

    def abandon(self) -> None:
        """Gives the worker up: nobody will wait for it again, in this job or when the group ends."""
        _process.lost.add(self.name)

    def close(self, timeout_s: float) -> Future[Any]:
        """Stops what runs and closes the object; the future ends when its resources are released."""
        return request(self.name, _close, (self._actor, next(self._numbers)), timeout_s)


def close_all(remotes: Sequence[Remote]) -> list[tuple[str, BaseException]]:
    """Closes objects at the same time and waits for it; returns the workers where that failed, and why.

    Those on workers that are lost are left alone.
    """
    closing = [(remote.name, remote.close(CLOSE_TIMEOUT_S)) for remote in remotes if not remote.lost]
    return [(name, error) for name, closed in closing if (error := closed.exception())]


def place(name: str, factory: Callable[..., Any], *args: Any) -> Remote:
    """Creates `factory(local, *args)` on the worker `name`; errors of the factory show at the first call.

    `local` is what that worker passed to `reset`. The object needs methods `stop()`, which may come from any
    thread while a method runs, and `close()`.

    Raises:
        LostError: the worker was lost before.
    """
    if name in _process.lost:
        raise LostError(f"lost {name} in an earlier job")
    try:
        return Remote(name, rpc.remote(name, _Actor, args=(factory, args)))
    except RuntimeError as error:
        _process.lost.add(name)
        raise LostError(f"lost {name}: {first_line(error)}") from error


def request(to: str, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> Future[Any]:
    """An RPC as a concurrent future, which can be waited for with a deadline, unlike torch's."""
    result: Future[Any] = Future()

    def lose(error: Exception) -> None:
        _process.lost.add(to)
        result.set_exception(LostError(f"lost {to}: {first_line(error)}"))

    def finish(reply: "torch.futures.Future[Any]") -> None:
        try:
            value = reply.value()
        except Exception as error:
            lose(error)
            return
        if isinstance(value, Failure):
            result.set_exception(value.to_error(to))
        else:
            result.set_result(value)

    if to in _process.lost:
        result.set_exception(LostError(f"lost {to} before"))
        return result
    try:
        rpc.rpc_async(to, function, args=args, timeout=timeout_s).add_done_callback(finish)
    except RuntimeError as error:
        lose(error)
    return result
