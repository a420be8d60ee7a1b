"""Work that is spread over this process's cores: calls that have nothing in common."""

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from pipar_rpc.base.threads import open_pool

T = TypeVar("T")
R = TypeVar("R")

MOST = 16  # threads; memory is too slow for more
WORTH = 1 << 18  # numbers that take as long as it takes to start threads


def on_cores(call: Callable[[T], R], items: Iterable[T], numbers: int = WORTH) -> list[R]:
    """Runs `call` on each item, as many at a time as there are cores, and waits; threads end with the work.

    Torch computes without Python's lock. Calls may share what they read, not what they change: then the
    results are those of one call after the other, bit for bit.

    Args:
        call: function of one item.
        items: items.
        numbers: how many numbers are computed in all; if they are few, no thread is started.

    Returns:
        The results in the order of the items. The first error is raised in their place, once all calls that
        have begun have ended.
    """
    work = list(items)
    size = min(len(work), len(os.sched_getaffinity(0)), MOST)
    if size < 2 or numbers < WORTH:
        return [call(item) for item in work]
    with open_pool("cores", size) as pool:
        return list(pool.map(call, work))
