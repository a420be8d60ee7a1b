"""Normalisation layers that the networks can be built with."""

import math
from enum import Enum

from torch import nn


class Norm(Enum):
    """Kind of normalisation after a convolution.

    BATCH sees one micro-batch at a time, so its statistics depend on N. GROUP and NONE treat each sample
    alone, so training with any P and N computes the gradient of the whole batch exactly.
    """

    batch = "batch"
    group = "group"
    none = "none"

    def layer(self, channels: int) -> nn.Module:
        """A layer for `channels` feature maps; groups hold 16 channels or fewer (Wu and He, 2018)."""
        match self:
            case Norm.batch:
                return nn.BatchNorm2d(channels)
            case Norm.group:
                return nn.GroupNorm(channels // math.gcd(channels, 16), channels)
            case Norm.none:
                return nn.Identity()
