"""Building a device's objects on the device's own rank, from plain data."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipar_rpc.data import OWN, Batches, DataSpec, Transform, load_train_part, open_source, whereabouts
from pipar_rpc.device import Cut, Device
from pipar_rpc.exchange import Exchange, LocalExchange, Reporter, RpcExchange
from pipar_rpc.fedavg import State
from pipar_rpc.link import LinkSpec
from pipar_rpc.memory import reset_peak_rss
from pipar_rpc.models import DropoutStreams, ModelSpec, build_part
from pipar_rpc.node import Node
from pipar_rpc.passage import Passages
from pipar_rpc.patience import Deadlines
from pipar_rpc.seeds import generator
from pipar_rpc.server import ServerHalf
from pipar_rpc.session import expect, worker_name
from pipar_rpc.speed import SpeedSpec
from pipar_rpc.stopping import Stop
from pipar_rpc.timeline import Timeline


@dataclass(frozen=True)
class DeviceJob:
    """One device's part in a job.

    Attributes:
        rank: number of the device, 1..K.
        num_devices: K.
        model: the uncut network.
        data: the data set; the device takes its own part.
        transform: from stored images to network input.
        num_units: Q.
        split_point: P, 1..Q.
        num_micro_batches: N.
        batch_size: B.
        smallest: samples that a micro-batch has at least.
        uplink: the emulated uplink.
        downlink: the emulated downlink.
        speed: of the emulated device.
        optimizer: arguments of `torch.optim.SGD`.
        seed: of the experiment.
        deadlines: of waiting for the other side.
        emulated_s: upper limit of what is emulated between two signs of life.
    """

    rank: int
    num_devices: int
    model: ModelSpec
    data: DataSpec
    transform: Transform
    num_units: int
    split_point: int
    num_micro_batches: int
    batch_size: int
    smallest: int
    uplink: LinkSpec
    downlink: LinkSpec
    speed: SpeedSpec
    optimizer: dict[str, Any]
    seed: int
    deadlines: Deadlines
    emulated_s: float = 0.0

    @property
    def name(self) -> str:
        """RPC name of the device's worker."""
        return worker_name(self.rank)

    @property
    def links_emulated(self) -> bool:
        """Whether the rates of both links are known."""
        return self.uplink.rate.limited and self.downlink.rate.limited

    @property
    def timeout_s(self) -> float:
        """Longest silence of the other side before anything has been measured."""
        return self.deadlines.ceiling_s + self.emulated_s


def links_timed(job: DeviceJob) -> bool:
    """Whether the links' times are known: they are emulated, or unused."""
    return job.links_emulated or job.split_point == job.num_units


def fill(layers: nn.Sequential, state: State) -> nn.Sequential:
    """Loads what `state`, of a whole network, has of these layers; returns them."""
    layers.load_state_dict({name: state[name] for name in layers.state_dict()})
    return layers


def build_device(node: Node, stop: Stop, job: DeviceJob, state: State, momentum: State, port: Any) -> Device:
    """Creates a device with its own data and its half of the network.

    At split point Q nothing but the loss is left for the server, so it is computed here and nothing crosses
    until the models are averaged.

    Args:
        node: the device's machine.
        stop: ends what it does, and the loading of its data.
        job: what to do.
        state: parameters and buffers of the device half.
        momentum: of its parameters; empty at the beginning.
        port: RRef of the device's port on the server.
    """
    reset_peak_rss()
    source = open_source(job.data, node.data_root, node.download)
    samples = load_train_part(source, job.data, job.rank, job.num_devices, stop.check)
    timeline, uplink = Timeline(), job.uplink.open(generator(job.seed, "uplink", job.rank), stop.sleep)
    # Micro-batches are numbered on through all cuts: the port puts them in order.
    numbers, passed = itertools.count(), Passages()

    def make_cut(job: DeviceJob, state: State) -> Cut:
        with torch.random.fork_rng(devices=[]):
            layers = build_part(job.model, job.split_point)
        fill(layers, state)
        exchange: Exchange
        if job.split_point == job.num_units:
            exchange = LocalExchange(build_server_half(nn.Sequential(), job, node, timeline).process)
        else:
            parts = job.num_micro_batches
            exchange = RpcExchange(port, uplink, timeline, parts, stop, numbers, passed)
        dropout = DropoutStreams(layers, job.seed, job.rank)
        return Cut(layers, exchange, job.num_micro_batches, dropout, job.speed)

    return Device(
        name=job.name,
        cut=make_cut(job, state),
        optimizer=job.optimizer,
        batches=Batches(samples, job.batch_size, job.transform, job.seed, job.rank),
        report=Reporter(port),
        uplink=uplink,
        smallest=job.smallest,
        device=node.device,
        timeline=timeline,
        make_cut=make_cut,
        momentum=momentum,
        on_patience=expect,
        passed=passed,
        stop=stop,
        places=whereabouts(node.data_root) if job.data.partition.name == OWN else (),
    )


def build_server_half(
    layers: nn.Sequential, job: DeviceJob, node: Node, timeline: Timeline, momentum: State | None = None
) -> ServerHalf:
    """The server half of a device, on this machine.

    Args:
        layers: P+1..Q.
        job: of the device.
        node: this machine.
        timeline: receives the spans of the computation.
        momentum: of their parameters; empty at the beginning.
    """
    dropout = DropoutStreams(layers, job.seed, job.rank)
    return ServerHalf(layers, job.optimizer, dropout, node.device, timeline, momentum)
