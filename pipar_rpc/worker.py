"""All threads of this project: named pools that are opened and closed, and one watchdog.

Nothing else starts a thread. A pool of one thread runs what it is given in order, which is how the
pipeline keeps micro-batches in order without locks around the computation.
"""

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def open_pool(name: str, size: int = 1) -> Iterator[ThreadPoolExecutor]:
    """Opens a pool of at most `size` threads called `name`; work not yet begun is dropped at the end.

    Leaving the context waits for the calls that are running: they must have deadlines of their own.
    """
    pool = ThreadPoolExecutor(size, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def watchdog(seconds: float, message: str, exit_code: int = 1) -> Iterator[None]:
    """Ends the whole process if the block takes longer than `seconds`.

    For calls into torch RPC that can block in C++ for ever after a peer's death: nothing inside the
    process can interrupt them, so `message` is printed to stderr and the process ends with `exit_code`.
    """

    def expire() -> None:
        print(message, file=sys.stderr, flush=True)
        os._exit(exit_code)

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
