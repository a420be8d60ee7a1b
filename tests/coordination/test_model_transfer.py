"""Models as their codec sends them, between the server and real device halves in this process."""

import copy

import pytest
import torch
from torch import nn

from pipar_rpc.base.states import is_finite, num_bytes
from pipar_rpc.compression.models import BF16Model, ExactModel, Int8Model
from pipar_rpc.coordination.model_transfer import ModelTransfer
from pipar_rpc.models import DropoutStreams
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.cut import Cut, LocalData
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.exchange import LocalExchange
from pipar_rpc.training.server_half import ServerHalf
from tests.support.coding import EXACT
from tests.support.handles import local_handle, states_of
from tests.support.loops import CPU, LEARNING, NATIVE, make_batches

CODECS = {"none": ExactModel, "bf16": BF16Model, "int8": Int8Model}


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def moved(state, seed, size=0.01):
    """The state after some training."""
    torch.manual_seed(seed)
    return {
        name: own + torch.randn(own.shape) * size if own.is_floating_point() else own + 3
        for name, own in state.items()
    }


def make_handle(split_point, codec, first):
    layers = first[:split_point]
    server = copy.deepcopy(first[split_point:])
    half = ServerHalf(server, LEARNING, DropoutStreams(server, 0, 1), EXACT, CPU, Timeline())
    device = Device(
        name="device1",
        cut=Cut(
            layers=copy.deepcopy(layers),
            exchange=LocalExchange(half.process),
            coding=EXACT,
            num_micro_batches=1,
            dropout=DropoutStreams(layers, 0, 1),
            speed=NATIVE,
        ),
        learning=LEARNING,
        data=LocalData(make_batches(4, 8, 3, 4)),
        report=lambda iteration, loss: None,
        device=CPU,
        model_codec=codec,
    )
    return local_handle(device, half)


@pytest.fixture(params=CODECS)
def codec(request):
    return CODECS[request.param]


@pytest.fixture
def handles(codec):
    """Three devices with different split points, and the network with which all begin."""
    first = network(0)
    handles = [make_handle(point, codec(), first) for point in (1, 2, 3)]
    begun = {name: own.clone() for name, own in first.state_dict().items()}
    for handle in handles:
        handle.holds = begun
    yield handles
    for handle in handles:
        handle.remote.device.close()


def names_of(handles):
    return {handle: handle.remote.device.state() for handle in handles}


def test_everyone_holds_the_same_network_round_after_round(handles, codec):
    """Device halves, server halves and what is returned, bit for bit; also a device that was not there."""
    transfer, before = ModelTransfer(codec()), handles[0].holds
    for seed in range(1, 5):
        there = handles[:2] if seed == 2 else handles  # the third one sits the second round out
        held, loaded = transfer.distribute(names_of(there), moved(before, seed), before)
        assert all(future.done() for future in loaded.values())
        for handle in there:
            assert all(torch.equal(own, held[name]) for name, own in states_of(handle).items())
        before = held


def test_who_does_not_hold_the_last_network_gets_it_whole(handles, codec):
    transfer, begun = ModelTransfer(codec()), handles[0].holds
    held, _ = transfer.distribute(names_of(handles[:2]), moved(begun, 1), begun)
    transfer.distribute(names_of(handles), moved(held, 2), held)
    whole = num_bytes(handles[2].remote.device.state())
    sent = num_bytes(handles[2].remote.sent[-1])
    assert sent == (
        whole if codec is not BF16Model else codec().num_bytes(handles[2].remote.device.state(), False)
    )
    if codec is Int8Model:
        changes = num_bytes(handles[1].remote.sent[-1])
        assert changes == codec().num_bytes(handles[1].remote.device.state(), True)


def test_what_a_device_uploads_is_decoded_from_what_it_was_given(handles, codec):
    transfer, begun = ModelTransfer(codec()), handles[0].holds
    held, _ = transfer.distribute(names_of(handles), moved(begun, 1), begun)
    for handle in handles:
        device = handle.remote.device
        trained = moved(device.state(), 7)
        device._layers.load_state_dict(trained)
        received = transfer.received(handle, device.upload())
        expected = codec().decode(codec().encode(trained, held), held)
        assert received.keys() == trained.keys()
        assert all(torch.equal(own, expected[name]) for name, own in received.items())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_arrive_so(handles, codec, wrong):
    """The device leaves then; see `Coordinator`. The others hold what they held."""
    transfer, begun = ModelTransfer(codec()), handles[0].holds
    held, _ = transfer.distribute(names_of(handles), moved(begun, 1), begun)
    diverged = handles[1].remote.device.state()
    diverged["0.weight"][2, 1] = wrong
    handles[1].remote.device._layers.load_state_dict(diverged)
    assert not is_finite(transfer.received(handles[1], handles[1].remote.device.upload()))
    others = [handles[0], handles[2]]
    assert all(is_finite(transfer.received(handle, handle.remote.device.upload())) for handle in others)
    held, _ = transfer.distribute(names_of(others), moved(held, 2), held)
    for handle in others:
        assert all(torch.equal(own, held[name]) for name, own in states_of(handle).items())


def test_bytes_that_were_sent_and_saved_add_up(handles, codec):
    transfer, begun, handle = ModelTransfer(codec()), handles[0].holds, handles[2]
    transfer.distribute(names_of([handle]), moved(begun, 1), begun)
    whole = num_bytes(handle.remote.device.state())
    assert handle.downloaded_bytes == handle.port.downlink.num_bytes == num_bytes(handle.remote.sent[-1])
    assert handle.downloaded_bytes + handle.saved_bytes == whole
    payload = handle.remote.device.upload()
    transfer.received(handle, payload)
    assert handle.downloaded_bytes + num_bytes(payload) + handle.saved_bytes == 2 * whole


def test_a_half_that_is_handed_on_goes_whole(handles, codec):
    transfer = ModelTransfer(codec())
    half = moved(handles[1].remote.device.state(), 5)
    transfer.hand_over(handles[1], half)
    expected = codec().decode(codec().encode(half, None), None)
    assert all(torch.equal(own, expected[name]) for name, own in handles[1].remote.device.state().items())
    assert handles[1].holds.keys() == half.keys()
