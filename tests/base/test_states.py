"""Model states."""

import torch

from pipar_rpc.base.states import num_bytes


def test_num_bytes():
    assert num_bytes({"a": torch.zeros(3, 2), "b": torch.tensor(1)}) == 24 + 8
