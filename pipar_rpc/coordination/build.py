"""Building a device's objects on the device's own rank, from plain data."""

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from pipar_rpc.base.memory import reset_peak_rss
from pipar_rpc.base.random_streams import generator
from pipar_rpc.base.states import State
from pipar_rpc.base.stopping import Stop
from pipar_rpc.compression.coding import NO_CODECS, Coding
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.data import OWN, Batches, load_train_part, open_source, whereabouts
from pipar_rpc.models import DropoutStreams, build_device_layers
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.node import Node
from pipar_rpc.privacy.dpsgd import gradients_of, half_norm
from pipar_rpc.privacy.gradients import PLAIN, Gradients
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.device_half import Cut, LocalData
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.exchange import Exchange, LocalExchange
from pipar_rpc.training.instrumented import Instruments
from pipar_rpc.training.server_half import ServerHalf
from pipar_rpc.transport.activation_sender import Reporter, RpcExchange
from pipar_rpc.transport.rpc_group import expect
from pipar_rpc.transport.server_port import PortReference


def fill(layers: nn.Sequential, state: State) -> nn.Sequential:
    """Loads these layers from the state of a whole network; returns them."""
    layers.load_state_dict({name: state[name] for name in layers.state_dict()})
    return layers


def build_device(
    node: Node, stop: Stop, job: DeviceJob, state: State, optimizer_state: State, port: PortReference
) -> Device:
    """Creates a device with its own data and its half of the network.

    At split point Q nothing but the loss is left for the server, so it is computed here and nothing crosses
    until the models are averaged.

    Args:
        node: machine of the device.
        stop: request to end what the device does, the loading of its data included.
        job: job of the device.
        state: parameters and buffers of the device half.
        optimizer_state: state of its optimiser by parameters' names; empty at the beginning of training.
        port: reference to the device's port on the server.
    """
    reset_peak_rss()
    source = open_source(job.data, node.data_root, node.download)
    samples = load_train_part(source, job.data, job.rank, job.num_devices, stop.check)
    instruments = Instruments(uplink=job.uplink.open(generator(job.seed, "uplink", job.rank), stop.sleep))
    numbers = itertools.count()  # of micro-batches, through all cuts: the port puts these in order

    def make_cut(job: DeviceJob, state: State) -> Cut:
        with torch.random.fork_rng(devices=[]):
            layers = build_device_layers(job.model, job.split_point)
        fill(layers, state)
        exchange = _open_exchange(job, node, stop, port, instruments, numbers)
        dropout = DropoutStreams(layers, job.seed, job.rank)
        own = _gradients(job, layers, slice(0, job.split_point))
        number, speed = job.num_micro_batches, job.speed
        return Cut(layers, exchange, coding_of(job), number, dropout, speed, job.smallest, own)

    return Device(
        name=job.name,
        cut=make_cut(job, state),
        learning=job.learning,
        data=LocalData(
            batches=Batches(
                *(samples, job.batch_size, job.transform, job.seed, job.rank), job.privacy.poisson
            ),
            roots=whereabouts(node.data_root) if job.data.partition.name == OWN else (),
        ),
        report=Reporter(port),
        device=node.device,
        instruments=instruments,
        make_cut=make_cut,
        model_codec=build_model_codec(job.model_codec, "compression.models"),
        optimizer_state=optimizer_state,
        on_deadline=expect,
        stop=stop,
    )


def _open_exchange(
    job: DeviceJob,
    node: Node,
    stop: Stop,
    port: PortReference,
    instruments: Instruments,
    numbers: Iterator[int],
) -> Exchange:
    """Connects to the server half, which is on the device itself where only the loss is left of it."""
    timeline, uplink, traffic = instruments.timeline, instruments.uplink, instruments.traffic
    if job.split_point == job.num_units:
        return LocalExchange(build_server_half(nn.Sequential(), job, node, timeline).process)
    return RpcExchange(port, uplink, timeline, job.num_micro_batches, stop, numbers, traffic)


def coding_of(job: DeviceJob) -> Coding:
    """The codecs of a device, equal in both halves; at split point Q nothing crosses that they code."""
    spec = NO_CODECS if job.split_point == job.num_units else job.coding
    return Coding(spec, job.seed, job.rank)


def server_gradients(job: DeviceJob, layers: nn.Sequential) -> Gradients:
    """What becomes of the gradients of a device's server half, `layers`."""
    return _gradients(job, layers, slice(job.split_point, None))


def _gradients(job: DeviceJob, layers: nn.Sequential, units: slice) -> Gradients:
    """What becomes of the gradients of `layers`, these units of the network."""
    spec = job.privacy.dpsgd
    if spec is None or not sum(job.trained[units]):
        return PLAIN
    clip_norm = half_norm(spec.max_grad_norm, job.trained, units)
    return gradients_of(job.privacy, layers, clip_norm, job.batch_size, job.seed, job.rank)


def build_server_half(
    layers: nn.Sequential,
    job: DeviceJob,
    node: Node,
    timeline: Timeline,
    optimizer_state: State | None = None,
) -> ServerHalf:
    """Creates the server half of a device, on this machine.

    Args:
        layers: layers P+1..Q.
        job: job of the device.
        node: this machine.
        timeline: record of the spans of the computation.
        optimizer_state: state of their optimiser by parameters' names; None at the beginning of training.
    """
    dropout, gradients = DropoutStreams(layers, job.seed, job.rank), server_gradients(job, layers)
    return ServerHalf(
        *(layers, job.learning, dropout, coding_of(job), node.device, timeline, optimizer_state), gradients
    )
