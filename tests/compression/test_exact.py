"""No compression: the same bits, and no copies."""

import torch

from pipar_rpc.compression.exact import Exact
from pipar_rpc.compression.noise import Noise


def test_the_bits_come_back_without_a_copy():
    given = torch.tensor([[1.0, -0.0], [float("nan"), float("inf")]])
    payload = Exact().encode(given, Noise(0))
    found = Exact().decode(payload, given.shape, given.dtype)
    assert torch.equal(found.view(torch.int32), given.view(torch.int32))
    assert payload.data_ptr() == given.data_ptr() == found.data_ptr()
