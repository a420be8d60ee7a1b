"""All threads of this project: named pools that are opened and closed, and those that end the process.

Nothing else starts a thread. A pool of one thread runs what it is given in order, which is how the
pipeline keeps micro-batches in order without locks around the computation.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

PARENT_POLL_S = 1.0
LAST_WORDS_S = 1.0
STDERR = 2

log = logging.getLogger(__name__)


def start_pool(name: str, size: int = 1) -> ThreadPoolExecutor:
    """A pool of at most `size` threads called `name`, for owners that cannot use a `with` block."""
    return ThreadPoolExecutor(size, thread_name_prefix=name)


@contextmanager
def open_pool(name: str, size: int = 1) -> Iterator[ThreadPoolExecutor]:
    """Opens a pool of at most `size` threads called `name`; work not yet begun is dropped at the end.

    Leaving the context waits for the calls that are running: they must have deadlines of their own.
    """
    pool = start_pool(name, size)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_thread(call: Callable[[], None]) -> None:
    """Runs a call on a thread of its own, which ends with it: for what a thread may do only once."""
    threading.Thread(target=call, name="once", daemon=True).start()


@contextmanager
def repeating(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Runs `call` every `seconds` on a thread of its own; an error is logged, once, and may pass."""
    ended = threading.Event()

    def run() -> None:
        told = ""
        while not ended.wait(seconds):
            try:
                call()
            except Exception as error:
                if told != (told := str(error) or type(error).__name__):
                    log.warning("%s; trying again every %g s", told, seconds)
            else:
                told = ""

    with open_pool("repeating") as pool:
        pool.submit(run)
        try:
            yield
        finally:
            ended.set()


@contextmanager
def watchdog(seconds: float, message: str, exit_code: int = 1) -> Iterator[None]:
    """Ends the whole process if the block takes longer than `seconds`.

    For calls into torch RPC that can block in C++ for ever after a peer's death: nothing inside the
    process can interrupt them, so `message` is printed to stderr and the process ends with `exit_code`.
    """
    timer = threading.Timer(seconds, _end_process, (message, exit_code))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def end_with(parent: int, message: str = "", exit_code: int = 1) -> None:
    """Ends this process soon after its parent, whatever it is doing then; watches for as long as it lives.

    A parent that is killed says nothing to its children, who go on as those of another process.

    Args:
        parent: id of the process that is this one's parent unless it has died.
        message: the last line of this process on stderr; none if empty.
        exit_code: exit code of this process.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        _end_process(message, exit_code)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _end_process(message: str, exit_code: int) -> None:
    """Past sys.stderr, whose lock somebody may hold, and whoever reads it may be gone, or read no more."""
    try:
        if message and select.select([], [STDERR], [], LAST_WORDS_S)[1]:
            os.write(STDERR, f"{message}\n".encode())
    finally:
        os._exit(exit_code)
