"""Devices that put their networks away while others train: bit for bit as if they had kept them."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipar_rpc.aggregation.fedavg import FedAvg
from pipar_rpc.aggregation.participation import build_participation
from pipar_rpc.base.stopping import Stop
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.coordination import build
from pipar_rpc.coordination.aggregation import Aggregator
from pipar_rpc.coordination.build import build_device, build_server_half, fill
from pipar_rpc.coordination.coordinator import Coordinator
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.epoch_result import EpochSums
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.moving_layers import recut_half
from pipar_rpc.coordination.rounds import Position
from pipar_rpc.models import build_model, server_layers
from pipar_rpc.plan.deadlines import Deadlines, DeadlineSpec
from pipar_rpc.plan.node import Node
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.exchange import LocalExchange
from tests.support.configuration import plan
from tests.support.handles import LocalRemote
from tests.support.loops import CPU

NODE = Node(Path("nowhere"), "nowhere", False, CPU)
K, PER_ROUND, EPOCHS = 5, 2, 2
JOB = (
    *("data=synthetic", "data.image_size=8", "data.train_size=200", "data.train_size_per_device=20"),
    *("data.val_size=10", "data.test_size=20", "batch_size=10", f"num_devices={K}", "aggregation.every=1"),
    *(f"participation.per_round={PER_ROUND}", "pipeline.num_micro_batches=2"),
)
JOBS = {
    "momentum": ("devices.overrides.2.pipeline.split_point=3",),
    "adam": ("optimizer=adamw", "model=mobilenet_small", "model.norm=group", "pipeline.split_point=2"),
    "codecs": ("compression=int8", "aggregation.fedprox_mu=0.1"),
    "private": ("privacy=dpsgd", "privacy.dpsgd.noise_multiplier=1", "model.norm=group"),
    "whole": ("strategy=fl",),
    "labels": ("pipeline.labels=device",),
    "rounded": ("compression.models.name=bf16",),
}


def port():
    """Of a device that answers at once."""
    calls = dict.fromkeys(("begin_round", "listen", "check", "settle", "remind", "heard", "leave"))
    ignored = {name: lambda *_, **__: None for name in calls}
    return SimpleNamespace(downlink=Link(), slowest_s=None, silent_s=0.0, iteration=0, **ignored)


def place(job, network):
    """Both halves of a device, as `deployed` places them; micro-batches go straight from one to the other."""
    whole = network.state_dict()
    layers = fill(copy.deepcopy(server_layers(network, job.split_point, job.tail_units)), whole)
    half = build_server_half(layers, job, NODE, Timeline())
    device = build_device(NODE, Stop(), job, whole, {}, half.process)
    deadlines = Deadlines(DeadlineSpec(10.0, 10.0, 10.0))
    handle = DeviceHandle(job.name, LocalRemote(device), port(), half, Timeline(), deadlines, True)
    handle.class_counts = device.data_summary().class_counts
    handle.iterations = -(-handle.num_samples // job.batch_size)
    if job.rests:
        half.rest()
        handle.rests, handle.revive = True, lambda state: recut_half(half, job, network, state, {})
    return handle


@pytest.fixture
def train(monkeypatch):
    """Trains a job whose devices rest, or keep all; returns what is left of it."""
    monkeypatch.setattr(build, "RpcExchange", lambda process, *_: LocalExchange(process))
    monkeypatch.setattr(build, "Reporter", lambda process: lambda iteration, loss: None)
    monkeypatch.setattr(EpochSums, "note", lambda *_: None)

    def run(name, rests):
        made = plan(*JOB, *JOBS[name], world_size=3)
        assert all(job.rests for job in made.devices)
        first, settings = made.devices[0], made.settings
        torch.manual_seed(0)
        network, awake = build_model(first.model), []
        handles = [place(replace(job, rests=rests), network) for job in made.devices]
        codec = build_model_codec(first.model_codec, "compression.models")
        participation = build_participation(settings.participation, 0, K)
        rule = Aggregator(FedAvg(), network.state_dict())
        coordinator = Coordinator(Membership(handles), 1, False, False, rule, codec, participation)
        for epoch in range(1, EPOCHS + 1):
            sums = EpochSums(handles)
            for this in coordinator.rounds(Position(epoch)):
                state = coordinator.average(coordinator.train(this, sums), sums)
                awake.append(sum(bool(handle.half.state()) for handle in handles))
        optimizers = coordinator.optimizer_states(shared_half=False)
        sent = [(handle.downloaded_bytes, handle.saved_bytes) for handle in handles]
        for handle in handles:
            handle.remote.device.close()
        return state, optimizers, sent, awake

    return run


@pytest.mark.parametrize("name", JOBS)
def test_what_is_trained_and_sent_is_the_same_to_the_bit(train, name):
    kept, rested = train(name, rests=False), train(name, rests=True)
    for one, other in zip([kept[0], *kept[1]], [rested[0], *rested[1]], strict=True):
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert sum(map(bool, rested[1])) > PER_ROUND
    assert kept[2] == rested[2]
    if name != "whole":
        assert set(kept[3]) == {K}
        assert max(rested[3]) <= PER_ROUND


def test_a_device_that_rests_holds_no_network():
    job = plan(*JOB, world_size=3).devices[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "RpcExchange", lambda process, *_: LocalExchange(process))
        patch.setattr(build, "Reporter", lambda process: lambda iteration, loss: None)
        handle = place(job, build_model(job.model))
    device = handle.remote.device
    assert not {"_cut", "_layers", "_head", "_optimizer"} & vars(device).keys()
    assert handle.half.state() == {}
    assert set(handle.half.names()) == server_layers(build_model(job.model), 1).state_dict().keys()
    device.close()


@pytest.mark.parametrize(
    "overrides",
    [
        ("participation.per_round=null",),
        ("strategy=sl",),
        ("strategy=sfl", "sfl.server=shared"),
        ("selector.profile_iterations=1",),
    ],
)
def test_devices_keep_their_networks_where_all_train_or_halves_are_shared_or_cut_anew(overrides):
    assert not any(job.rests for job in plan(*JOB, *overrides, world_size=3).devices)
