"""topk: which values are sent, and gradients with the same mask."""

import pytest
import torch

from pipar_rpc.compression.int8 import Int8
from pipar_rpc.compression.noise import Noise
from pipar_rpc.compression.topk import Masked, TopK, gradient_codec, gradient_num_bytes
from tests.support.codecs import values

NOISE = Noise(5, "test")


def coded(codec, given, noise=NOISE):
    return codec.decode(codec.encode(given, noise), given.shape, given.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ratio", [0.001, 0.1, 0.25, 0.5, 1.0])
def test_the_largest_are_sent_as_they_are(ratio, dtype):
    given = values(4, 5, 13, dtype=dtype)
    found = coded(TopK(ratio), given)
    k = max(1, round(ratio * 65))
    for own, sent in zip(given.flatten(1), found.flatten(1), strict=True):
        places = sent.nonzero().flatten()
        assert len(places) == k
        assert torch.equal(sent[places], own[places])
        rest = own[sent == 0].abs()
        assert not len(rest) or rest.max() <= sent[places].abs().min()


@pytest.mark.parametrize(("length", "k"), [(1, 1), (3, 1), (14, 1), (25, 2), (8192, 819), (0, 0)])
def test_k_of_n(length, k):
    assert TopK(0.1).count(length) == k


@pytest.mark.parametrize(("length", "index"), [(65_536, 2), (65_537, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_indices_have_two_bytes_as_long_as_they_fit(length, index, dtype):
    codec = TopK(1e-4)
    given = torch.zeros(3, length, dtype=dtype)
    given[:, -1], given[:, 7] = 2, -1
    payload = codec.encode(given, NOISE)
    assert len(payload) == 3 * 7 * (dtype.itemsize + index) == codec.num_bytes(given.shape, dtype)
    assert torch.equal(codec.decode(payload, given.shape, dtype), given)
    assert codec.indices(payload, given.shape).tolist() == [[0, 1, 2, 3, 4, 7, length - 1]] * 3


def test_of_equal_values_the_first_are_sent_whatever_the_batch():
    given = torch.tensor([[1.0, -2, 2, 2, -2, 1]]).repeat(5, 1)
    for batch in (given, given[:1]):
        indices = TopK(0.5).indices(TopK(0.5).encode(batch, NOISE), batch.shape)
        assert indices.tolist() == [[1, 2, 3]] * len(batch)


def test_nan_counts_as_the_largest_then_infinity():
    nan, inf = float("nan"), float("inf")
    given = torch.tensor([[inf, 3.0, -nan, -inf, 1e38], [1.0, nan, 2, nan, nan]])
    codec = TopK(0.6)
    assert codec.indices(codec.encode(given, NOISE), given.shape).tolist() == [[0, 2, 3], [1, 3, 4]]
    assert TopK(0.2).indices(TopK(0.2).encode(given, NOISE), given.shape).tolist() == [[2], [1]]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_is_drawn_among_the_others_for_each_sample(share):
    given = values(1, 1, 200).repeat(30, 1, 1)
    codec, k = TopK(0.1, share), 20
    indices = codec.indices(codec.encode(given, NOISE), given.shape)
    top = max(1, k - round(share * k))
    largest = set(given[0].flatten().abs().topk(top).indices.tolist())
    drawn = [set(row) - largest for row in indices.tolist()]
    assert all(largest <= set(row) and len(set(row)) == k and row == sorted(row) for row in indices.tolist())
    assert len({frozenset(own) for own in drawn}) == (1 if share == 0 else 30)
    if share:  # by chance all the others have their turn
        assert len(set().union(*drawn)) > 0.5 * (200 - top)


def test_every_other_value_is_drawn_equally_often():
    given = torch.arange(20.0, 0, -1).repeat(2000, 1)
    codec = TopK(0.5, 0.4)  # six largest, four of the other fourteen
    indices = codec.indices(codec.encode(given, NOISE), given.shape)
    counts = indices.flatten().bincount(minlength=20)
    assert (counts[:6] == 2000).all()
    expected = 2000 * 4 / 14
    assert ((counts[6:] - expected).abs() < 5 * expected**0.5).all()


def test_no_value_is_sent_twice_whatever_is_drawn():
    """Zeros among the lots do not bring back what was sent for its magnitude."""

    class Zeros(Noise):
        def uniform(self, shape):
            return torch.zeros(shape)

    given, codec = torch.arange(20.0, 0, -1).repeat(2, 1), TopK(1.0, 0.5)
    indices = codec.indices(codec.encode(given, Zeros(0)), given.shape)
    assert indices.tolist() == [list(range(20))] * 2


def test_without_a_random_share_nothing_is_drawn():
    class Untouched(Noise):
        def uniform(self, shape):
            raise AssertionError("drawn")

    coded(TopK(), values(2, 30), Untouched(0))


@pytest.mark.parametrize("shape", [(4, 3, 30), (3, 50), (5,), (0, 7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_gradient_has_the_mask_of_the_activation(shape, dtype):
    activations, gradients = TopK(0.3, 0.5), TopK(0.9)
    activation = values(*shape, dtype=dtype)
    payload = activations.encode(activation, NOISE)
    codec = gradient_codec(gradients, activations, payload, shape)
    gradient = values(*shape, seed=1, dtype=dtype)
    sent = codec.encode(gradient, NOISE)
    size = gradient_num_bytes(gradients, activations, shape, dtype)
    assert len(sent) == size == codec.num_bytes(shape, dtype)
    assert sent.dtype == torch.uint8
    mask = (
        torch.zeros(shape, dtype=dtype).flatten(1 if len(shape) > 1 else 0).view(shape[0], -1)
        if shape[0]
        else None
    )
    if mask is not None:
        mask.scatter_(1, activations.indices(payload, shape), 1)
        assert torch.equal(codec.decode(sent, shape, dtype), gradient * mask.view(shape))
    assert codec.decode(sent, shape, dtype).shape == shape


def test_indices_with_four_bytes_are_found_without_the_type():
    """With bfloat16 they come first, with float32 last; the mask is found from sizes alone."""
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        given = torch.zeros(2, 70_000, dtype=dtype)
        given[:, [3, 66_000]] = torch.tensor([1.0, -2.0]).to(dtype)
        codec = TopK(2 / 70_000)
        mask = gradient_codec(codec, codec, codec.encode(given, NOISE), given.shape)
        assert isinstance(mask, Masked)
        ones = torch.ones_like(given)
        found = mask.decode(mask.encode(ones, NOISE), given.shape, dtype)
        assert torch.equal(found, (given != 0).to(dtype))


def test_other_pairs_of_codecs_keep_the_gradients_own():
    topk, int8, shape = TopK(), Int8("gradients"), (2, 30)
    payload = topk.encode(values(*shape), NOISE)
    assert gradient_codec(int8, topk, payload, shape) is int8
    assert gradient_codec(topk, Int8("activations"), payload, shape) is topk
    assert gradient_num_bytes(int8, topk, shape, torch.float32) == int8.num_bytes(shape, torch.float32)
