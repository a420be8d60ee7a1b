"""Objects on other ranks: placed by reference, called in order, failures returned as values.

`pipar_rpc.transport` explains how a call crosses.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, TypeVarTuple

import torch
from torch.distributed import rpc

from pipar_rpc.base.errors import Failure, LostError, first_line
from pipar_rpc.base.shared_pools import start_share
from pipar_rpc.base.stopping import Stop
from pipar_rpc.plan.node import Node
from pipar_rpc.transport.rpc_futures import handler, here, send
from pipar_rpc.transport.server_order import InOrder
from pipar_rpc.transport.workers import PROCESS, Place


class Closable(Protocol):
    """What an object must have to be placed on another rank."""

    def close(self) -> None:
        """Releases what the object holds."""


T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")
Target = TypeVar("Target", bound=Closable)
Reply: TypeAlias = "torch.futures.Future[Any]"  # Any: the method is known by its name only


def name_of(method: Callable[..., object]) -> str:
    """Returns the name that stands for a method in calls, errors and deadlines."""
    return method.__name__


class _Actor(Generic[Target]):
    """An object placed on this rank, whose methods run one after the other on a thread.

    Args:
        factory: function that makes the object.
        args: arguments of the factory.
        kwargs: arguments that are given by name.
        at_once: number of threads for the objects of this factory.

    Attributes:
        doing: name of the method that runs or has run last; at first, of the factory.
    """

    def __init__(
        self,
        factory: Callable[..., Target],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        at_once: int = 1,
    ) -> None:
        self.doing = name_of(factory)
        self._thread = start_share(self.doing, at_once)
        self._stop = Stop()
        self._object = self._thread.submit(factory, PROCESS.local, self._stop, *args, **kwargs)
        self._in_order = InOrder(self._thread)

    def call(self, number: int, method: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Reply:
        """Runs a method after the calls with smaller numbers; the future gets its result or a Failure."""
        reply: Reply = torch.futures.Future()

        def run() -> None:
            self.doing = method
            try:
                self._stop.check()
                reply.set_result(getattr(self._object.result(), method)(*args, **kwargs))
            except BaseException as error:  # every failure belongs to the caller
                reply.set_result(Failure.of(error))

        self._in_order.submit(number, run)
        return reply

    def close(self, number: int) -> Reply:
        """Stops what runs or waits to run; then closes the object and ends the thread."""
        self._stop.set("stopped by the server")
        reply: Reply = torch.futures.Future()

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


@handler
def _call(
    actor: "rpc.RRef[_Actor[Target]]",
    number: int,
    method: str,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> Reply:
    return here(actor).call(number, method, args, kwargs)


def _doing(actor: "rpc.RRef[_Actor[Target]]") -> str:
    return here(actor).doing


@handler
def _close(actor: "rpc.RRef[_Actor[Target]]", number: int) -> Reply:
    return here(actor).close(number)


class Remote(Generic[Target]):
    """A reference to an object on another rank.

    Args:
        place: name of the object, and the worker that holds it.
        actor: RRef of the actor.
    """

    def __init__(self, place: Place, actor: "rpc.RRef[_Actor[Target]]") -> None:
        self.name, self.worker = place.name, place.worker
        self._actor = actor
        self._numbers = itertools.count()

    def call(
        self, method: Callable[Concatenate[Target, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Has a method of the object run after those called before; returns at once.

        Args:
            method: the method, as an attribute of the object's class.
            args: arguments of the method.
            kwargs: arguments that are given by name.

        Returns:
            A future with the method's result; it has no time limit. It fails with PeerError if the method
            failed, LostError if the connection did, and UserError if the user can mend it.
        """
        crossing = (self._actor, next(self._numbers), name_of(method), args, kwargs)
        return self._request(_call, crossing, timeout_s=0)

    @property
    def lost(self) -> str | None:
        """Why the worker was given up, or how its connection failed; None if it is not lost."""
        return PROCESS.lost.get(self.worker)

    def abandon(self, reason: str) -> None:
        """Gives the worker up, with all that it holds: nobody will wait for it again, in this job or when the
        group ends.
        """
        PROCESS.lost.setdefault(self.worker, reason)

    def close(self) -> Future[None]:
        """Stops what runs and closes the object; the future ends when its resources are released."""
        return self._request(_close, (self._actor, next(self._numbers)), timeout_s=0)

    def doing(self, timeout_s: float) -> Future[str]:
        """Asks what the object does. The answer comes however busy it is: silence means a lost worker."""
        return self._request(_doing, (self._actor,), timeout_s)

    def _request(
        self, function: Callable[[*Ts], T | Failure], args: tuple[*Ts], timeout_s: float
    ) -> Future[T]:
        return request(self.worker, function, args, timeout_s, self.name)


def create_remote(
    place: Place | str,
    factory: Callable[Concatenate[Node, Stop, P], Target],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Remote[Target]:
    """Creates `factory(local, stop, *args)` at a place, a worker's name if it is alone there.

    Its errors show at the first call.

    `local` is what that worker passed to `reset`; `stop` is a `Stop` that ends what runs when the object is
    closed, the factory too.

    Raises:
        LostError: the worker was lost before.
    """
    place = Place(place, place) if isinstance(place, str) else place
    worker = place.worker
    if worker in PROCESS.lost:
        raise LostError(f"lost {worker} in an earlier job")
    try:
        return Remote(place, rpc.remote(worker, _Actor, args=(factory, args, kwargs, place.at_once)))
    except RuntimeError as error:
        reason = f"lost {worker}: {first_line(error)}"
        PROCESS.lost.setdefault(worker, reason)
        raise LostError(reason) from error


def request(
    to: str,
    function: Callable[[*Ts], T | Failure],
    args: tuple[*Ts],
    timeout_s: float,
    who: str | None = None,
) -> Future[T]:
    """Sends an RPC, as `send`; if it fails, nobody waits for the worker again."""
    if to in PROCESS.lost:
        result: Future[T] = Future()
        result.set_exception(LostError(f"lost {to} before"))
        return result
    return send(to, function, args, timeout_s, lambda reason: PROCESS.lost.setdefault(to, reason), who)
