"""The way from rank 0 to what another server rank holds of a device.

A server rank that is lost ends the job: its halves are gone, as are rank 0's with rank 0.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, TypeVar

from pipar_rpc.base.errors import LostError, PeerError
from pipar_rpc.coordination.held_half import HeldHalf
from pipar_rpc.plan.deadlines import Deadlines
from pipar_rpc.transport.remote_object import Remote, name_of

P = ParamSpec("P")
T = TypeVar("T")

ASK_EVERY_S = 5.0  # time between two questions to a server rank that is busy: whether it is alive


class FarEnd:
    """The way to what another server rank holds of a device.

    Args:
        remote: reference to it.
        deadlines: deadlines of waiting for that rank, the same for all that it holds.
    """

    def __init__(self, remote: Remote[HeldHalf], deadlines: Deadlines) -> None:
        self.remote, self.deadlines = remote, deadlines
        self._pending: list[Future[Any]] = []

    def ask(self, method: Callable[Concatenate[HeldHalf, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Has a method run after those called before, and waits as long as the rank answers.

        Raises:
            PeerError: the rank is lost, or the method failed.
            UserError: it failed for a reason that the user can mend.
        """
        return self.result_of(self._call(method, *args, **kwargs))

    def begin(
        self, method: Callable[Concatenate[HeldHalf, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[], T]:
        """Has a method run as `ask` does; returns a function that waits for the result."""
        answer = self._call(method, *args, **kwargs)
        return lambda: self.result_of(answer)

    def tell(self, method: Callable[Concatenate[HeldHalf, P], T], *args: P.args, **kwargs: P.kwargs) -> None:
        """Has a method run after those called before; its errors show at `flush`."""
        self._pending.append(self._call(method, *args, **kwargs))

    def flush(self) -> None:
        """Waits for what was told."""
        pending, self._pending = self._pending, []
        for answer in pending:
            self.result_of(answer)

    def check_alive(self) -> None:
        """Raises PeerError if the server rank is lost."""
        if reason := self.remote.lost:
            raise PeerError(f"{reason}; it holds server halves, without which the training cannot go on")

    def _call(
        self, method: Callable[Concatenate[HeldHalf, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Has a method run and notes how long its answer took, which is what later deadlines rest on."""
        began, answer = time.monotonic(), self.remote.call(method, *args, **kwargs)

        def note(answer: Future[T]) -> None:
            computes = method is HeldHalf.settle  # which takes as long as it takes
            if not computes and not answer.exception():
                self.deadlines.note(name_of(method), time.monotonic() - began)

        answer.add_done_callback(note)
        return answer

    def result_of(self, answer: Future[T]) -> T:
        """Waits for an answer as `ask` does."""
        try:
            while True:
                try:
                    return answer.result(ASK_EVERY_S)
                except TimeoutError:
                    self.remote.doing(self.deadlines.unanswered_s).result()
        except LostError:
            self.check_alive()
            raise
