"""Objects on other ranks: placed by reference, called in order, failures returned as values.

A placed object is an actor: its methods run one after the other on a thread of its own, so no RPC thread is
ever blocked. This is the shape that torch RPC asks for: a handler that blocks can leave the process without
a thread to answer with.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributed import rpc

from pipar_rpc.base.errors import Failure, LostError, first_line
from pipar_rpc.base.stopping import Stop
from pipar_rpc.base.threads import start_pool
from pipar_rpc.transport.turn_order import InOrder


@dataclass
class _Process:
    """What the RPC handlers of this process share.

    Attributes:
        local: handed to the factories of objects that are placed here.
        lost: why workers are lost: they failed or kept silent. This is the one list of them, as long as the
            group lasts; nobody waits for them again, in no job.
    """

    local: Any = None
    lost: dict[str, str] = field(default_factory=dict)


_process = _Process()


def reset(local: Any) -> None:
    """Prepares this process for a new RPC group."""
    _process.local = local
    _process.lost.clear()


def is_lost(name: str) -> bool:
    """Whether a worker was lost since the group came together."""
    return name in _process.lost


class _Actor:
    """An object placed on this rank, with the one thread that runs its methods.

    Attributes:
        doing: the method that runs or has run last; at first, the factory.
    """

    def __init__(self, factory: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._thread, self.doing = start_pool(factory.__name__), factory.__name__
        self._stop = Stop()
        self._object: Future[Any] = self._thread.submit(factory, _process.local, self._stop, *args)
        self._in_order = InOrder(self._thread)

    def call(self, number: int, method: str, args: tuple[Any, ...]) -> "torch.futures.Future[Any]":
        """Runs a method after the calls with smaller numbers; the future gets its result or a Failure."""
        reply: torch.futures.Future[Any] = torch.futures.Future()

        def run() -> None:
            self.doing = method
            try:
                self._stop.check()
                reply.set_result(getattr(self._object.result(), method)(*args))
            except BaseException as error:  # every failure belongs to the caller
                reply.set_result(Failure.of(error))

        self._in_order.submit(number, run)
        return reply

    def close(self, number: int) -> "torch.futures.Future[Any]":
        """Stops what runs, and what was to run; then closes the object and ends the thread."""
        self._stop.set("stopped by the server")
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


def _doing(actor: Any) -> str:
    return actor.local_value().doing  # type: ignore[no-any-return]


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

    @property
    def lost(self) -> str | None:
        """Why the worker was given up, or how its connection failed; None if it is not lost."""
        return _process.lost.get(self.name)

    def abandon(self, reason: str) -> None:
        """Gives the worker up: nobody will wait for it again, in this job or when the group ends."""
        _process.lost.setdefault(self.name, reason)

    def close(self) -> Future[Any]:
        """Stops what runs and closes the object; the future ends when its resources are released."""
        return request(self.name, _close, (self._actor, next(self._numbers)), timeout_s=0)

    def doing(self, timeout_s: float) -> Future[str]:
        """What the object does; answered at once, however busy it is, so that silence means a lost worker."""
        return request(self.name, _doing, (self._actor,), timeout_s)


def place(name: str, factory: Callable[..., Any], *args: Any) -> Remote:
    """Creates `factory(local, stop, *args)` on the worker `name`; its errors show at the first call.

    `local` is what that worker passed to `reset`; `stop` is a `Stop` that ends what runs when the object is
    closed, the factory too. The object needs a method `close()`.

    Raises:
        LostError: the worker was lost before.
    """
    if name in _process.lost:
        raise LostError(f"lost {name} in an earlier job")
    try:
        return Remote(name, rpc.remote(name, _Actor, args=(factory, args)))
    except RuntimeError as error:
        reason = f"lost {name}: {first_line(error)}"
        _process.lost.setdefault(name, reason)
        raise LostError(reason) from error


def request(to: str, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float) -> Future[Any]:
    """As `send`; after an RPC that failed, nobody waits for the worker again."""
    if to in _process.lost:
        result: Future[Any] = Future()
        result.set_exception(LostError(f"lost {to} before"))
        return result
    return send(to, function, args, timeout_s, lambda reason: _process.lost.setdefault(to, reason))


def send(
    to: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    timeout_s: float,
    on_lost: Callable[[str], object] = lambda reason: None,
) -> Future[Any]:
    """An RPC as a concurrent future, for which one can wait with a deadline or a `Stop`, unlike torch's.

    Args:
        to: the worker.
        function: what to run there.
        args: its arguments.
        timeout_s: seconds after which the RPC fails; 0 for never.
        on_lost: told why, if it fails.
    """
    result: Future[Any] = Future()

    def lose(error: Exception) -> None:
        reason = f"lost {to}: {first_line(error)}"
        on_lost(reason)
        result.set_exception(LostError(reason))

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

    try:
        rpc.rpc_async(to, function, args=args, timeout=timeout_s).add_done_callback(finish)
    except RuntimeError as error:
        lose(error)
    return result
