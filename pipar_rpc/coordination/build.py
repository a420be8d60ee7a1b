"""Building a device's objects on the device's own rank, from plain data."""

import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from pipar_rpc.base.gpu import main_stream
from pipar_rpc.base.memory import reset_peak_rss
from pipar_rpc.base.random_streams import generator, global_generators
from pipar_rpc.base.states import State
from pipar_rpc.base.stopping import Stop
from pipar_rpc.compression.coding import NO_CODECS, Coding
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.data import OWN, Batches, load_train_part, open_source, whereabouts
from pipar_rpc.learning import Criterion
from pipar_rpc.models import DropoutStreams, build_device_layers, build_model, server_layers
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.plan.node import Node
from pipar_rpc.privacy.cut import CutPrivacy
from pipar_rpc.privacy.dpsgd import gradients_of, half_norm
from pipar_rpc.privacy.gradients import PLAIN, CountedTogether, Gradients
from pipar_rpc.privacy.registry import build_cut_privacy
from pipar_rpc.privacy.spec import NO_PRIVACY
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.cut import Cut, LocalData
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.exchange import Exchange, LocalExchange, WaitingExchange
from pipar_rpc.training.instrumented import Instruments
from pipar_rpc.training.middle_half import MiddleHalf
from pipar_rpc.training.server_half import ServerHalf
from pipar_rpc.training.tail import Tail, TailExchange
from pipar_rpc.transport.activation_sender import Reporter, RpcExchange
from pipar_rpc.transport.port_reference import PortReference
from pipar_rpc.transport.rpc_group import expect

_loading = threading.Lock()  # a source may read all of a data set, of which a device keeps its part


def fill(layers: nn.Sequential, state: State) -> nn.Sequential:
    """Loads these layers from the state of a whole network, if it is not empty; returns them."""
    if state:
        layers.load_state_dict({name: state[name] for name in layers.state_dict()})
    return layers


def build_device(
    node: Node, stop: Stop, job: DeviceJob, state: State, optimizer_state: State, port: PortReference
) -> Device:
    """Creates a device with its own data and its half of the network.

    At split point Q nothing but the loss is left for the server, so it is computed here and nothing crosses
    until the models are averaged.

    Args:
        node: machine of the device, which may hold others too; they are built one after the other.
        stop: request to end what the device does, the loading of its data included.
        job: job of the device.
        state: parameters and buffers of the device half; empty if it rests at first.
        optimizer_state: state of its optimiser by parameters' names; empty at the beginning of training.
        port: reference to the device's port on the server.
    """
    node = node.of_device(job.rank)
    with _loading:
        if job.placed.first:
            reset_peak_rss()
        source = open_source(job.data, node.data_root, node.download)
        samples = load_train_part(source, job.data, job.rank, job.num_devices, stop.check)
    instruments = Instruments(uplink=job.uplink.open(generator(job.seed, "uplink", job.rank), stop.sleep))
    numbers = itertools.count()  # of micro-batches, through all cuts: the port puts these in order

    def make_cut(job: DeviceJob, state: State) -> Cut:
        with global_generators(torch.Generator().manual_seed(job.seed)):  # which devices share
            layers = build_device_layers(job.model, job.split_point, job.tail_units)
        fill(layers, state)
        return _cut(layers, job, node, stop, _open_exchange(job, node, stop, port, instruments, numbers))

    device = Device(
        name=job.name,
        cut=make_cut(job, state),
        learning=job.learning,
        data=LocalData(
            batches=Batches(
                *(samples, job.batch_size, job.transform, job.seed, job.rank), job.privacy.poisson
            ),
            roots=whereabouts(node.data_root) if job.data.partition.name == OWN else (),
            tells_classes=not job.labels_stay,
        ),
        report=Reporter(port),
        device=node.device,
        instruments=instruments,
        make_cut=make_cut,
        job=job,
        model_codec=build_model_codec(job.model_codec, "compression.models"),
        optimizer_state=optimizer_state,
        on_deadline=partial(expect, job.name),
        stop=stop,
    )
    if job.rests:
        device.rest()
    return device


def _cut(layers: nn.Sequential, job: DeviceJob, node: Node, stop: Stop, exchange: Exchange) -> Cut:
    """Cuts a device's network for its job; `exchange` reaches the server half."""
    first, last, coding = layers[: job.split_point], layers[job.split_point :], coding_of(job)
    gradients = _gradients(job, first, slice(0, job.split_point))
    if job.tail_units:
        of_tail = _gradients(job, last, slice(job.num_units - job.tail_units, None))
        exchange = _by_way_of_tail(exchange, last, coding, job, node, stop, of_tail)
        gradients = CountedTogether(gradients, of_tail)
    if node.device.type == "cuda":
        exchange = WaitingExchange(exchange, main_stream(node.device))
    return Cut(
        layers=layers,
        exchange=exchange,
        coding=coding,
        num_micro_batches=job.num_micro_batches,
        dropout=DropoutStreams(first, job.seed, job.rank),
        speed=job.speed,
        smallest=job.smallest,
        split_point=job.split_point,
        privacy=_privacy_of(job),
        gradients=gradients,
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
        return LocalExchange(_server_half(ServerHalf, nn.Sequential(), job, node, timeline).process)
    return RpcExchange(port, uplink, timeline, stop, numbers, traffic)


def _by_way_of_tail(
    exchange: Exchange,
    tail: nn.Sequential,
    coding: Coding,
    job: DeviceJob,
    node: Node,
    stop: Stop,
    gradients: Gradients,
) -> Exchange:
    """Has results come by way of the last units, so that the labels stay here."""

    def count(saved_bytes: int) -> None:
        coding.saved_bytes += saved_bytes

    criterion, dropout = Criterion(job.learning.loss, node.device), DropoutStreams(tail, job.seed, job.rank)
    last = Tail(tail, criterion, dropout, coding.before_tail(), node.device, gradients)
    return TailExchange(job.name, exchange, last, stop.result, count)


def coding_of(job: DeviceJob) -> Coding:
    """The codecs of a device, equal in both halves; at split point Q nothing crosses that they code."""
    spec = NO_CODECS if job.split_point == job.num_units else job.coding
    return Coding(spec, job.seed, job.rank)


def _privacy_of(job: DeviceJob) -> CutPrivacy:
    """The device's mechanisms at the cut; at split point Q nothing is released."""
    spec = NO_PRIVACY if job.split_point == job.num_units else job.privacy
    return build_cut_privacy(spec, job.seed, job.rank)


def server_gradients(job: DeviceJob, layers: nn.Sequential) -> Gradients:
    """What becomes of the gradients of a device's server half, `layers`."""
    return _gradients(job, layers, slice(job.split_point, job.num_units - job.tail_units))


def _gradients(job: DeviceJob, layers: nn.Sequential, units: slice) -> Gradients:
    """What becomes of the gradients of `layers`, these units of the network."""
    spec = job.privacy.dpsgd
    if spec is None or not sum(job.trained[units]):
        return PLAIN
    clip_norm = half_norm(spec.max_grad_norm, job.trained, units)
    return gradients_of(job.privacy, layers, clip_norm, job.batch_size, job.seed, job.rank)


def build_server_layers(job: DeviceJob, state: State) -> nn.Sequential:
    """The layers of a device's server half on a rank that has no network, filled from `state`.

    Built from the job's seed, as rank 0's network is: constants that a network draws are in no state.
    """
    with global_generators(torch.Generator().manual_seed(job.seed)):
        layers = server_layers(build_model(job.model), job.split_point, job.tail_units)
    return fill(layers, state)


def recut_server_half(
    half: ServerHalf, job: DeviceJob, layers: nn.Sequential, optimizer_state: State
) -> None:
    """Gives a device's server half the layers that its job says.

    Args:
        half: server half.
        job: job of the device from now on.
        layers: layers P+1..Q, without the last ones if these are on the device.
        optimizer_state: optimiser's state of those of their parameters that are new here.
    """
    dropout = DropoutStreams(layers, job.seed, job.rank)
    half.recut(layers, dropout, coding_of(job), optimizer_state, server_gradients(job, layers))


def build_server_half(
    layers: nn.Sequential,
    job: DeviceJob,
    node: Node,
    timeline: Timeline,
    optimizer_state: State | None = None,
    kind: Callable[..., ServerHalf] | None = None,
) -> ServerHalf:
    """Creates the server half of a device, on this machine.

    Args:
        layers: layers P+1..Q, without the last ones if these are on the device.
        job: job of the device.
        node: this machine.
        timeline: record of the spans of the computation.
        optimizer_state: state of their optimiser by parameters' names; None at the beginning of training.
        kind: what to make, with the arguments of `ServerHalf`; None for what the place of the labels needs.
    """
    kind = kind or (MiddleHalf if job.labels_stay else ServerHalf)
    return _server_half(kind, layers, job, node, timeline, optimizer_state, server_gradients(job, layers))


def _server_half(
    kind: Callable[..., ServerHalf],
    layers: nn.Sequential,
    job: DeviceJob,
    node: Node,
    timeline: Timeline,
    optimizer_state: State | None = None,
    gradients: Gradients = PLAIN,
) -> ServerHalf:
    dropout, coding = DropoutStreams(layers, job.seed, job.rank), coding_of(job)
    return kind(layers, job.learning, dropout, coding, node.device, timeline, optimizer_state, gradients)
