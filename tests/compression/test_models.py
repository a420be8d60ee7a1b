"""Codecs of whole networks: what comes back, from what, and that both ends have the same bits."""

import pytest
import torch
from torch import nn

from pipar_rpc.base.states import num_bytes
from pipar_rpc.compression.models import MODEL_CODECS, build_model_codec
from pipar_rpc.compression.registry import CodecSpec

KEY = "compression.models"


def network(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 7, bias=False))
    made[1].running_var.uniform_(0.001, 0.002)
    made[1].num_batches_tracked.fill_(seed)
    return {name: tensor.clone() for name, tensor in made.to(dtype).state_dict().items()}


def codec(name):
    return build_model_codec(CodecSpec(name), KEY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("name", MODEL_CODECS)
def test_names_shapes_types_and_the_size_that_was_known_before(name, has_base, dtype):
    own, state, base = codec(name), network(1, dtype), network(0, dtype) if has_base else None
    before = {key: tensor.clone() for key, tensor in state.items()}
    payload = own.encode(state, base)
    meta = {key: tensor.to("meta") for key, tensor in state.items()}
    assert num_bytes(payload) == own.num_bytes(meta, has_base) == own.num_bytes(state, has_base)
    found = own.decode(payload, base)
    assert list(found) == list(state)
    assert [(t.shape, t.dtype) for t in found.values()] == [(t.shape, t.dtype) for t in state.values()]
    assert torch.equal(found["1.num_batches_tracked"], torch.tensor(1))
    assert all(torch.equal(state[key], before[key]) for key in state)


@pytest.mark.parametrize("name", MODEL_CODECS)
def test_both_ends_decode_the_same_bits(name):
    """Also through as many rounds as you like, each end from its own network before."""
    own, here, there = codec(name), None, None
    for seed in range(4):
        payload = own.encode(network(seed), here)
        copied = {key: tensor.clone() for key, tensor in payload.items()}
        here, there = own.decode(payload, here), own.decode(copied, there)
        assert all(torch.equal(here[key], there[key]) for key in here)


def test_none_is_the_network():
    state = network(0)
    found = codec("none").decode(codec("none").encode(state, None), None)
    assert all(found[name] is tensor for name, tensor in state.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bf16_rounds_to_one_in_256(dtype):
    state = network(0, dtype)
    found = codec("bf16").decode(codec("bf16").encode(state, None), None)
    for name, tensor in state.items():
        assert ((found[name] - tensor).abs() <= tensor.abs() * 2**-8).all()
        assert torch.equal(found[name].bfloat16(), tensor.bfloat16()) or not tensor.is_floating_point()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_int8_sends_changes_with_a_scale_for_each_output_channel(dtype):
    state, base = network(1, dtype), network(0, dtype)
    state["0.weight"] = base["0.weight"] + 1e-4 * torch.randn(5, 3, 3, 3, dtype=dtype)
    state["0.weight"][2] *= 10
    payload = codec("int8").encode(state, base)
    found = codec("int8").decode(payload, base)
    for name in ("0.weight", "3.weight"):
        change = (state[name] - base[name]).flatten(1)
        step = change.abs().amax(1, keepdim=True) / 127
        error = (found[name] - state[name]).flatten(1).abs()
        assert (error <= step * (0.5 + 1e-4) + 1e-7).all()
        assert payload[f"scales/{name}"].shape == (len(change),)
    assert payload["change/0.weight"].dtype == torch.int8


def test_int8_sends_biases_and_statistics_as_they_are():
    """A variance with the error of the channel that changed most could be negative."""
    state, base = network(1), network(0)
    state["1.running_var"][0] = 50.0
    found = codec("int8").decode(codec("int8").encode(state, base), base)
    for name, tensor in state.items():
        assert tensor.dim() > 1 or torch.equal(found[name], tensor), name


def test_int8_without_a_network_before_sends_everything_as_it_is():
    state = network(1)
    found = codec("int8").decode(codec("int8").encode(state, None), None)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    found = codec("int8").decode(codec("int8").encode(state, None), network(0))
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_int8_needs_the_network_that_changes_are_of():
    payload = codec("int8").encode(network(1), network(0))
    with pytest.raises(ValueError, match=r"the change of 0\.weight needs the network"):
        codec("int8").decode(payload, None)


def test_int8_of_no_change_is_the_network_before():
    state = network(0)
    found = codec("int8").decode(codec("int8").encode(state, state), state)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", MODEL_CODECS)
def test_a_network_that_is_not_finite_stays_so(name, wrong):
    for key in ("3.weight", "0.bias"):
        state, base = network(1), network(0)
        state[key].view(-1)[3] = wrong
        found = codec(name).decode(codec(name).encode(state, base), base)
        assert not found[key].isfinite().all()


def test_int8_of_linear_weights_with_one_input_has_one_scale():
    state, base = {"w": torch.rand(9, 1)}, {"w": torch.zeros(9, 1)}
    assert codec("int8").num_bytes(state, True) == 9 + 4
    assert codec("int8").encode(state, base)["scales/w"].shape == (1,)
