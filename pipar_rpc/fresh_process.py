"""Running a function in a process without a history."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

from pipar_rpc.errors import Failure, PeerError

T = TypeVar("T")


def run_in_process(
    function: Callable[..., T], *args: Any, environment: Mapping[str, str], timeout_s: float
) -> T:
    """The result of `function(*args)` in a new process, which inherits nothing but the environment.

    Args:
        function: of a module; it, its arguments and its result are pickled.
        args: its arguments.
        environment: variables to add.
        timeout_s: seconds after which the process is killed.

    Raises:
        PeerError: the process ended or did not answer in time, or the function failed there.
        UserError: the function raised it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, args), daemon=True)
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    sender.close()
    what = f"{function.__name__} in a process of its own"
    with receiver:
        try:
            if not receiver.poll(timeout_s):
                raise PeerError(f"waited {timeout_s:.0f} s for {what}")
            answer = receiver.recv()
        except EOFError:
            process.join()
            raise PeerError(f"{what} ended with exit code {process.exitcode}") from None
        finally:
            process.kill()
            process.join()
    if isinstance(answer, Failure):
        raise answer.to_error(what)
    return cast(T, answer)


def _answer(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        answer = function(*args)
    except Exception as error:
        answer = Failure.of(error)
    sender.send(answer)
