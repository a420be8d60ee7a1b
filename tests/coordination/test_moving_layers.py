"""Layers that move between both halves, with codecs: real halves in this process, built as for a job."""

import copy
import itertools
from pathlib import Path

import pytest
import torch

from pipar_rpc.base.states import num_bytes
from pipar_rpc.base.stopping import Stop
from pipar_rpc.compression.models import Int8Model
from pipar_rpc.coordination import build
from pipar_rpc.coordination.build import build_device, build_server_half
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.model_transfer import ModelTransfer
from pipar_rpc.coordination.moving_layers import move_layers
from pipar_rpc.models import build_model, server_layers
from pipar_rpc.plan.node import Node
from pipar_rpc.timing.timeline import Stage, Timeline
from pipar_rpc.training.exchange import LocalExchange
from tests.support.configuration import plan
from tests.support.handles import local_handle, states_of
from tests.support.loops import CPU

NODE = Node(Path("nowhere"), "nowhere", False, CPU)
JOB = (
    *("data=synthetic", "data.image_size=8", "data.train_size=200", "data.train_size_per_device=20"),
    *("data.val_size=10", "data.test_size=20", "model.norm=group", "batch_size=9", "num_devices=1"),
)
MICRO_BATCHES = 3


@pytest.fixture
def place(monkeypatch):
    """Builds both halves of a device; micro-batches go straight from one to the other."""
    monkeypatch.setattr(build, "RpcExchange", lambda process, *_: LocalExchange(process))
    monkeypatch.setattr(build, "Reporter", lambda process: lambda iteration, loss: None)
    placed = []

    def make(job, network):
        layers = copy.deepcopy(server_layers(network, job.split_point, job.tail_units))
        half = build_server_half(layers, job, NODE, Timeline())
        device = build_device(NODE, Stop(), job, network.state_dict(), {}, half.process)
        placed.append(device)
        return local_handle(device, half)

    yield make
    for device in placed:
        device.close()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model(plan(*JOB, world_size=2).devices[0].model)


def cut(first, points):
    """The jobs with these split points, one after the other."""
    return [first.recut([(point, MICRO_BATCHES)]).devices for point in points]


@pytest.mark.parametrize("compression", ["none", "int8", "int4", "topk"])
@pytest.mark.parametrize("points", [(5, 1), (1, 5), (1, 5, 3), (2, 4, 1)], ids=str)
@pytest.mark.parametrize("labels", ["server", "device"])
def test_training_goes_on_as_if_the_network_had_been_cut_there_from_the_beginning(
    place, network, points, compression, labels
):
    """A device that had held everything once sent what its server half could not decode."""
    jobs = cut(plan(*JOB, f"compression={compression}", f"pipeline.labels={labels}", world_size=2), points)
    moved, whole = place(jobs[0][0], network), network.state_dict()
    for old, new in itertools.pairwise(jobs):
        move_layers(Membership([moved]), network, old, new, whole)
    there = place(jobs[-1][0], network)
    for handle in (moved, there):
        handle.remote.device.train(1, 0, 3)
    first, second = states_of(moved), states_of(there)
    assert first.keys() == second.keys()
    assert all(torch.equal(own, second[name]) for name, own in first.items())
    assert any(not torch.equal(own, whole[name]) for name, own in first.items())


def test_after_a_move_both_ends_still_hold_the_last_global_network(place, network):
    """So changes of it are enough, up and down, of the layers that have come as well."""
    jobs = cut(plan(*JOB, "compression=int8", world_size=2), (1, 4, 2, 5, 3))
    handle, codec = place(jobs[0][0], network), Int8Model()
    transfer, held = ModelTransfer(codec), {k: own.clone() for k, own in network.state_dict().items()}
    handle.holds, device = held, handle.remote.device
    for epoch, (old, new) in enumerate(itertools.pairwise(jobs), start=1):
        move_layers(Membership([handle]), network, old, new, held)
        device.train(epoch, 0, 3)
        trained, payload = device.state(), device.upload()
        assert num_bytes(payload) == codec.num_bytes(trained, True)
        received = transfer.received(handle, payload)
        expected = codec.decode(codec.encode(trained, held), held)
        assert all(torch.equal(own, expected[name]) for name, own in received.items())
        held, _ = transfer.distribute({handle: received}, handle.half.state() | received, held)
        assert num_bytes(handle.remote.sent[-1]) == codec.num_bytes(trained, True)
        assert all(torch.equal(own, held[name]) for name, own in states_of(handle).items())


def test_what_a_device_that_keeps_its_labels_tells_of_them(place, network):
    """How many samples there are, and what codecs save at both cuts: here half of four crossings."""
    jobs = (*JOB, "compression=bf16", "pipeline.tail_units=2")
    stays, crosses = (
        plan(*jobs, f"pipeline.labels={labels}", world_size=2).devices[0] for labels in ("device", "server")
    )
    first, second = place(stays, network).remote.device, place(crosses, network).remote.device
    counts = second.data_summary().class_counts
    assert len(counts) > 1
    assert first.data_summary().class_counts == (sum(counts),) == (20,)
    report, values = first.train(1, 0, 3), 32 * 4 * 4 + 64 * 2 * 2  # after the first unit, and the third
    assert report.saved_bytes == 2 * 20 * values * 2
    assert report.stages[Stage.DEVICE_TAIL].count == 8 + 8 + 2
