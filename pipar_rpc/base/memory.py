"""Memory of this process: how it is kept between iterations, and its peak, as the kernel counts it."""

import ctypes
import gc
import os
import re
import resource
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX
MALLOPT = {-1: 1 << 28, -2: 1 << 24, -3: 1 << 25, -8: os.cpu_count() or 1}


def keep_freed_memory() -> None:
    """Has glibc keep what an iteration frees for the next one, up to 256 MB for each arena; else nothing.

    Otherwise each iteration gets its larger tensors from the kernel anew, which zeroes them page by page:
    with VGG5, two devices and N = 1, a tenth of all CPU time. There are as many arenas as cores, not eight
    times as many: what is freed is for the threads of its arena alone, and the server halves of many devices
    take turns on many threads. With 64 devices of VGG5, rank 0 then needs 90 MB less.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, value in MALLOPT.items():
            mallopt(option, value)


def reset_peak_rss() -> None:
    """Starts a new peak, so that the jobs of a sweep do not inherit each other's; only on Linux.

    First gives back what earlier jobs left: objects in reference cycles, and memory that glibc keeps in the
    arenas of threads that have ended (2 GB after VGG16, measured). What stays is left out of further
    collections: looking through all of torch takes 0.1 s, in the middle of an iteration.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def peak_rss_mb() -> float:
    """Largest resident memory in 10^6 bytes since the start or the last reset."""
    return _status_mb("VmHWM")


def rss_mb() -> float:
    """Resident memory now, in 10^6 bytes."""
    return _status_mb("VmRSS")


def _status_mb(line: str) -> float:
    """A line of the process's status; its peak where there is none."""
    try:
        found = re.search(rf"{line}:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        found = None
    kilobytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024 / 1e6
