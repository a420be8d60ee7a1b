"""Independent random streams derived from one seed.

Every random choice takes a generator named after what it decides (partition, shuffling of an epoch,
augmentation of a batch ...). No generator is shared or carried along, so results do not depend on the order
in which threads and processes run, and a run can go on from any iteration without saved random states.
"""

import random
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_ONE_AT_A_TIME = threading.RLock()


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator that depends on the seed and the stream's name alone.

    Args:
        seed: the experiment's seed, >= 0.
        stream: purpose, e.g. `generator(seed, "shuffle", device, epoch)`; integers must be >= 0.
    """
    state = sequence(seed, *stream).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def sequence(seed: int, *stream: str | int) -> np.random.SeedSequence:
    """The same for generators of NumPy; arguments as for `generator`."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    return np.random.SeedSequence([seed, *words])


@contextmanager
def global_generators(rng: torch.Generator) -> Iterator[None]:
    """Has torch (on the CPU), NumPy and Python draw from a stream of its own in the block.

    For code of the user's, which draws from the global generators. Afterwards these are as they were. They
    belong to the whole process: blocks exclude each other, and no other thread may draw from them meanwhile.

    Args:
        rng: generator as `generator` makes it; its seed counts, and it is not drawn from.
    """
    seed = rng.initial_seed()
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        before = random.getstate(), np.random.get_state()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change those of GPUs too
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
