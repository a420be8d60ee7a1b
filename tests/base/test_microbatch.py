"""How a mini-batch is split."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipar_rpc.base.microbatch import split_batch


@given(batch=st.integers(1, 120), n=st.integers(1, 150))
def test_micro_batches_keep_every_sample_and_differ_by_at_most_one(batch, n):
    images, labels = torch.arange(batch * 2).view(batch, 2), torch.arange(batch)
    parts = split_batch(images, labels, n, epoch=2, iteration=3)
    assert torch.equal(torch.cat([part.images for part in parts]), images)
    assert torch.equal(torch.cat([part.labels for part in parts]), labels)
    sizes = [len(part.labels) for part in parts]
    assert len(sizes) == min(n, batch)
    assert max(sizes) - min(sizes) <= 1
    assert [part.part.index for part in parts] == list(range(1, len(parts) + 1))
    assert [part.part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert math.isclose(sum(part.part.weight for part in parts), 1)
