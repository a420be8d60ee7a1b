"""Independent random streams derived from one seed.

Every random choice takes a generator named after what it decides (partition, shuffling of an epoch,
augmentation of a batch ...). No generator is shared or carried along, so results do not depend on the order
in which threads and processes run, and a run can go on from any iteration without saved random states.
"""

import zlib

import numpy as np
import torch


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
