"""Pools that all of a process share, so that its threads do not grow with the devices that it serves.

Each owner has a share of a pool: its calls begin in order, and no more of them run at a time than it may
have.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from pipar_rpc.base.threads import start_pool

P = ParamSpec("P")
T = TypeVar("T")
Call = Callable[[], None]


class Share(Executor):
    """Runs calls on threads that others use too: they begin in order, and so many run at a time.

    With one at a time, which is the default, it takes the place of a pool of one thread.

    Args:
        begin: function that has a thread run a call, and does not wait for it.
        most: function that tells how many calls may run now, at least 1.
        on_end: function called once, when the share has been shut down and its last call has ended.
    """

    def __init__(
        self,
        begin: Callable[[Call], object],
        most: Callable[[], int] = lambda: 1,
        on_end: Call = lambda: None,
    ) -> None:
        self._begin, self._most, self._on_end = begin, most, on_end
        self._waiting: deque[tuple[Call, Future[Any]]] = deque()
        self._changed, self._running = threading.Condition(), 0
        self._ended = self._released = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queues a call; raises RuntimeError once the share is shut down."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # whatever it is belongs to who waits for the future
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._changed:
            if self._ended:
                raise RuntimeError("nothing can be begun on a share that is shut down")
            self._waiting.append((run, future))
            self._begin_next()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the share; its threads go on serving others.

        Args:
            wait: whether to wait for the calls that run or are queued.
            cancel_futures: whether to drop those that are queued.
        """
        with self._changed:
            self._ended = True
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
            while wait and (self._running or self._waiting):
                self._changed.wait()
        for _, future in dropped:
            future.cancel()
        self._release()

    def _begin_next(self) -> None:
        while self._waiting and self._running < self._most():
            run, _ = self._waiting.popleft()
            self._running += 1
            self._begin(partial(self._work, run))

    def _work(self, run: Call) -> None:
        run()
        with self._changed:
            self._running -= 1
            self._begin_next()  # on a thread that is free then, so that others have their turn
            self._changed.notify_all()
        self._release()

    def _release(self) -> None:
        with self._changed:
            busy = self._running or self._waiting
            if busy or not self._ended or self._released:
                return
            self._released = True
        self._on_end()


class _Pool:
    """A pool of this process, and the number of those who have a share of it."""

    def __init__(self, name: str, size: int) -> None:
        self.executor, self.size, self.users = start_pool(name, size), size, 0


_pools: dict[tuple[str, int], _Pool] = {}
_lock = threading.Lock()  # of the pools and their users
_ended: deque[tuple[str, int]] = deque()  # pools of shares that have ended, a user each


def start_share(name: str, size: int, most: int = 1) -> Share:
    """A share of this process's pool of that name and size, for owners that cannot use a `with` block.

    The pool lasts for as long as anybody has a share of it.

    Args:
        name: name of the pool.
        size: largest number of its threads.
        most: calls of this share that may run at a time; fewer where so many have shares that there are not
            as many threads for each, but one at least.
    """
    key = name, size
    with _lock:
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = _Pool(name, size)
        pool.users += 1
    _sweep()

    def end() -> None:
        _ended.append(key)
        _sweep()

    return Share(pool.executor.submit, lambda: max(1, min(most, size // max(1, pool.users))), end)


def _sweep() -> None:
    """Counts users down whose shares have ended.

    Never waits for the lock: a share that was never shut down ends when its owner is collected as garbage,
    which may be in the middle of `start_share` on the same thread. Whoever has the lock does it afterwards.
    """
    while _ended and _lock.acquire(blocking=False):
        try:
            while _ended:
                key = _ended.popleft()
                pool = _pools[key]
                pool.users -= 1
                if not pool.users:
                    del _pools[key]
                    pool.executor.shutdown(wait=False)
        finally:
            _lock.release()


@contextmanager
def open_share(name: str, size: int, most: int = 1) -> Iterator[Share]:
    """Opens a share as `start_share` does; work not yet begun is dropped at the end.

    Leaving the context waits for the calls that are running: they must have deadlines of their own.
    """
    share = start_share(name, size, most)
    try:
        yield share
    finally:
        share.shutdown(wait=True, cancel_futures=True)
