"""Running a function in a process without a history."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import TypeVar, TypeVarTuple, cast

from pipar_rpc.base.errors import Failure, PeerError
from pipar_rpc.base.threads import end_with

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LEAVE_TIMEOUT_S = 10.0


def run_in_process(
    function: Callable[[*Ts], T], *args: *Ts, environment: Mapping[str, str], timeout_s: float
) -> T:
    """The result of `function(*args)` in a new process, which inherits nothing but the environment.

    Args:
        function: function of a module; it, its arguments and its result are pickled.
        args: its arguments.
        environment: variables to add.
        timeout_s: seconds after which the process is killed.

    Raises:
        PeerError: the process ended or did not answer in time, or the function failed there.
        UserError: the function raised it.
    """
    ours, theirs = Pipe()
    with ours:
        with theirs:
            process = _start(theirs.fileno(), {**os.environ, **environment})
        what = f"{function.__name__} in a process of its own"
        try:
            ours.send((function, args))
            if not ours.poll(timeout_s):
                raise PeerError(f"waited {timeout_s:.0f} s for {what}")
            answer = ours.recv()
        except (EOFError, OSError):  # it has closed its end
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE_TIMEOUT_S)
            raise PeerError(f"{what} ended with exit code {process.returncode}") from None
        finally:
            process.kill()
            process.wait()
    if isinstance(answer, Failure):
        raise answer.to_error(what)
    return cast(T, answer)


def _start(connection: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """A process that reads a call from a connection and answers; it imports from where this one does."""
    path = f"import sys; sys.path[:] = {sys.path!r}"
    program = f"{path}; from {__name__} import serve; serve({connection}, {os.getpid()})"
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.DEVNULL, pass_fds=[connection]
    )


def serve(connection: int, parent: int) -> None:
    """What the new process does: one call; it ends early with its parent."""
    end_with(parent)
    with Connection(connection) as theirs:
        try:
            function, args = theirs.recv()
            answer = function(*args)
        except Exception as error:
            answer = Failure.of(error)
        theirs.send(answer)
