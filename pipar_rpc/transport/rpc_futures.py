"""RPCs whose results are futures at both ends, with types."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar, TypeVarTuple

import torch
from torch.distributed import rpc

from pipar_rpc.base.errors import Failure, LostError, first_line

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


def handler(function: "Callable[P, torch.futures.Future[T]]") -> Callable[P, T]:
    """Marks an RPC handler that returns a future; the caller gets the future's result."""
    return rpc.functions.async_execution(function)  # type: ignore[no-any-return]


def here(reference: "rpc.RRef[T]") -> T:
    """Returns the object that a reference names, on the rank that holds it."""
    value: T = reference.local_value()
    return value


def send(
    to: str,
    function: Callable[[*Ts], T | Failure],
    args: tuple[*Ts],
    timeout_s: float,
    on_lost: Callable[[str], object] = lambda reason: None,
    who: str | None = None,
) -> Future[T]:
    """Sends an RPC; unlike torch's, its future can be waited for with a deadline or a `Stop`.

    Args:
        to: name of the worker.
        function: function to run there.
        args: arguments of the function.
        timeout_s: seconds after which the RPC fails; 0 for never.
        on_lost: function called with the reason if the RPC fails.
        who: name of the object there that the function is about, for errors; by default the worker's.
    """
    result: Future[T] = Future()

    def lose(error: Exception) -> None:
        reason = f"lost {to}: {first_line(error)}"
        on_lost(reason)
        result.set_exception(LostError(reason))

    def finish(reply: "torch.futures.Future[T | Failure]") -> None:
        try:
            value = reply.value()
        except Exception as error:
            lose(error)
            return
        if isinstance(value, Failure):
            result.set_exception(value.to_error(who or to))
        else:
            result.set_result(value)

    try:
        rpc.rpc_async(to, function, args=args, timeout=timeout_s).add_done_callback(finish)
    except RuntimeError as error:
        lose(error)
    return result


def timed(call: Future[T]) -> Future[tuple[T, float]]:
    """Adds to the result of a call the time at which it came."""
    result: Future[tuple[T, float]] = Future()

    def finish(done: Future[T]) -> None:
        if error := done.exception():
            result.set_exception(error)
        else:
            result.set_result((done.result(), time.monotonic()))

    call.add_done_callback(finish)
    return result
