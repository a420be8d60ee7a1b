"""Activations as they cross: without a codec, where a test is about something else."""

import torch
from torch import Tensor

from pipar_rpc.base.microbatch import Part
from pipar_rpc.compression.coding import Coded, Coding, CodingSpec

EXACT = Coding(CodingSpec())
PART = Part(1, 0, 1, 1, 1.0)


def coded(activation: Tensor) -> Coded:
    """The activation as it crosses without a codec."""
    return EXACT.encode_activation(PART, activation)


def one_pair() -> Coded:
    """An activation of two numbers that wants a gradient."""
    return coded(torch.ones(1, 2, requires_grad=True))


GRADIENT = torch.zeros(8, dtype=torch.uint8)  # payload of the gradient of `one_pair`
