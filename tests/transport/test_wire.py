"""What comes with the payload of a micro-batch, as a tuple."""

import pickle

import pytest
import torch

from pipar_rpc.base.microbatch import Part
from pipar_rpc.compression.coding import Coded, Crossing
from pipar_rpc.transport.wire import FEW_BYTES, label_of, read

PART = Part(epoch=2, iteration=3, index=4, count=5, weight=0.2, first=6, step=7)
SENT = Coded(torch.arange(6, dtype=torch.uint8), (3, 1), torch.bfloat16, 6, Crossing.FIRST)


@pytest.mark.parametrize(
    "labels",
    [
        None,
        torch.tensor([3, 1, 2]),
        torch.tensor([0.5, float("nan")], dtype=torch.float64),
        torch.tensor([[True], [False]]),
        torch.ones(2, 3, dtype=torch.bfloat16).T,
        torch.zeros(0, 4, dtype=torch.int32),
        torch.arange(FEW_BYTES),
    ],
    ids=str,
)
def test_what_is_read_is_what_was_labelled(labels):
    part, sent, found = read(pickle.loads(pickle.dumps(label_of(PART, SENT, labels))), SENT.payload)
    assert (part, sent) == (PART, SENT)
    if labels is None:
        assert found is None
    else:
        torch.testing.assert_close(found, labels, rtol=0, atol=0, equal_nan=True)
