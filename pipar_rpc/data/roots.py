"""Where data roots really are, so that devices with data of their own do not read the same files.

A device tells digests only: neither a path nor anything of the data leaves it.
"""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # of the kernel, which numbers the file systems


def whereabouts(root: Path) -> tuple[str, ...]:
    """Digests of where a folder or file is, links resolved: its own, then those of the folders above it.

    Two processes of one machine get the same digest for the same place, also in containers that mount it. A
    network file system that several machines mount is another place on each of them.
    """
    path = root.resolve()
    host = BOOT_ID.read_text() if BOOT_ID.exists() else platform.node()
    found = [place.stat() for place in (path, *path.parents)]
    names = [f"{host.strip()}:{status.st_dev}:{status.st_ino}" for status in found]
    return tuple(hashlib.sha256(name.encode()).hexdigest() for name in names)


def overlapping(places: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """The first two devices of which one reads what the other does, or a folder inside it; None if none do.

    Args:
        places: `whereabouts` by devices' names; empty for a device that need not be apart.
    """
    owners: dict[str, str] = {}
    for name, (root, *_) in ((name, own) for name, own in places.items() if own):
        if root in owners:
            return owners[root], name
        owners[root] = name
    for name, own in places.items():
        for above in own[1:]:
            if above in owners:
                return owners[above], name
    return None
