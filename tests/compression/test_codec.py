"""What every codec keeps, whatever it does to the values."""

import pytest
import torch

from pipar_rpc.compression.noise import Noise
from pipar_rpc.compression.registry import CODECS, CodecSpec, build_codec
from tests.support.codecs import values
from tests.support.processes import ROOT

SPECS = [
    *[CodecSpec(name) for name in CODECS],
    CodecSpec("topk", args={"ratio": 1.0}),
    CodecSpec("topk", args={"ratio": 0.3, "random_share": 0.5}),
    CodecSpec("topk", args={"ratio": 0.01, "random_share": 1.0}),
    CodecSpec("custom", "own_codec.SignAndMean"),
]
SHAPES = [
    (5, 4, 6, 6),
    (7, 130),
    (4, 3, 7),  # odd everywhere
    (3, 5, 1, 1),  # channels of one value
    (6,),  # scalars
    (4, 1),
    (2, 300, 257),  # more than 65,536 values per sample
    (0, 3, 4),
    (0,),
]
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NOISE = Noise(3, "test")


@pytest.fixture(params=["activations", "gradients"])
def role(request):
    return request.param


@pytest.fixture(params=SPECS, ids=lambda spec: "-".join([spec.name, *map(str, spec.args.values())]))
def codec(request, role, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    return build_codec(request.param, f"compression.{role}", role)


def decoded(codec, given, noise=NOISE):
    payload = codec.encode(given, noise)
    assert payload.dtype == torch.uint8
    assert payload.shape == (codec.num_bytes(given.shape, given.dtype),)
    assert payload.is_contiguous()
    found = codec.decode(payload, given.shape, given.dtype)
    assert (found.shape, found.dtype) == (given.shape, given.dtype)
    return found


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_size_is_known_before_and_shape_and_type_come_back(codec, shape, dtype):
    given = values(*shape, dtype=dtype)
    before = given.clone()
    assert decoded(codec, given).isfinite().all()
    assert torch.equal(given, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_samples_are_coded_independently_of_how_the_batch_is_cut(codec, shape):
    given = values(*shape)
    whole = decoded(codec, given)
    for parts in (2, 3, 9):  # of nine some are empty
        found, first = [], 0
        for part in given.tensor_split(parts):
            found.append(decoded(codec, part, NOISE.at(first)))
            first += len(part)
        assert torch.equal(torch.cat(found), whole)


def test_empty_samples(codec):
    for shape in ((3, 0), (2, 0, 4), (2, 4, 0)):
        assert decoded(codec, torch.empty(shape)).shape == shape


def test_equal_input_gives_equal_bits(codec):
    given = values(3, 4, 5)
    assert torch.equal(codec.encode(given, NOISE), codec.encode(given.clone(), NOISE))


def test_the_layout_in_memory_does_not_matter(codec):
    given = values(3, 4, 6, 6)
    other = given.to(memory_format=torch.channels_last)
    assert torch.equal(codec.encode(given, NOISE), codec.encode(other, NOISE))


def test_zeros_stay_zeros(codec):
    for shape in ((2, 3, 5), (2, 131)):
        found = decoded(codec, torch.zeros(shape))
        assert not found.any()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_sample_that_is_not_finite_stays_so_and_others_do_not_notice(codec, wrong, dtype):
    given = values(3, 4, 35, dtype=dtype)
    clean = decoded(codec, given)
    given[1, 2, 3] = wrong
    found = decoded(codec, given)
    assert not found[1].isfinite().all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])
