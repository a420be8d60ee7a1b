"""Strategies as plain loops over whole networks: what training over RPC must equal."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipar_rpc.aggregation.fedavg import weighted_average
from pipar_rpc.base.microbatch import Part, split_batch
from pipar_rpc.base.states import State
from pipar_rpc.compression.coding import Coding
from pipar_rpc.compression.models import ExactModel, ModelCodec
from pipar_rpc.data import Batches, DataSpec, Transform, load_train_part, open_source
from pipar_rpc.models import ModelSpec, Norm, build_model, device_layers, server_layers
from pipar_rpc.privacy.cut import CutPrivacy

SPLIT, BATCH_SIZES, EPOCHS = 2, (10, 4), 2  # 2 iterations on device 1, 5 on device 2
SAMPLES = 20


MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass
class Codecs:
    """The quantisers of what crosses: of activations and gradients for each device, and of models."""

    codings: Sequence[Coding | None] = (None, None)
    models: ModelCodec = field(default_factory=ExactModel)

    def crossed(self, half: State, base: State | None) -> State:
        """A device half as the other side decodes it."""
        return self.models.decode(self.models.encode(half, base), base)


class Reference:
    """A network in two halves with an optimiser each, as one device and its server half see it."""

    def __init__(
        self,
        network: nn.Sequential,
        split_point: int = SPLIT,
        num_micro_batches: int = 1,
        coding: Coding | None = None,
        optimizer: MakeOptimizer | None = None,
        tail: int = 0,
        privacy: CutPrivacy | None = None,
    ) -> None:
        self.network, self.num_micro_batches = network, num_micro_batches
        self.split_point, self.coding, self.tail = split_point, coding, tail
        self.privacy = privacy or CutPrivacy()
        halves = (device_layers(network, split_point, tail), server_layers(network, split_point, tail))
        self.optimizers = [(optimizer or self.sgd)(half) for half in halves]

    @staticmethod
    def sgd(half: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": list(half.parameters())}], lr=0.01, momentum=0.9)

    def step(self, batches: Batches, epoch: int, iteration: int) -> None:
        images, labels = batches.get(epoch, iteration)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        for part, x, y, _ in split_batch(images, labels, self.num_micro_batches, epoch, iteration):
            if self.coding is None:
                (F.cross_entropy(self.network(x), y) * part.weight).backward()
            else:
                self.quantised(self.coding, part, x, y)
        for optimizer in self.optimizers:
            optimizer.step()

    def quantised(self, coding: Coding, part: Part, x: Tensor, y: Tensor) -> None:
        """Both passes, with what mechanisms and codecs make of the values at the cuts."""
        last = len(self.network) - self.tail
        cuts = [(coding, self.network[self.split_point : last])]
        if self.tail:
            cuts.append((coding.before_tail(), self.network[last:]))
        activation = self.network[: self.split_point](x)
        released = self.privacy.release(part, x, activation)
        values, crossed = released.values, []
        for own, piece in cuts:
            sent = own.encode_activation(part, values)
            leaf = own.decode_activation(sent, x.device).clone().requires_grad_()
            crossed.append((own, values, sent, leaf))
            values = piece(leaf)
        (F.cross_entropy(values, y) * part.weight).backward()
        for own, before, sent, leaf in reversed(crossed):
            assert leaf.grad is not None
            payload = own.encode_gradient(part, sent, leaf.grad)
            gradient = own.decode_gradient(sent, payload, x.device)
            if before is not released.values:
                before.backward(gradient)
        activation.backward(released.gradient(gradient))

    def state(self) -> State:
        return {key: value.clone() for key, value in self.network.state_dict().items()}

    def half(self, state: State | None = None) -> State:
        """What a state has of the device half; by default the present one."""
        state = state or self.state()
        own = device_layers(self.network, self.split_point, self.tail)
        return {name: state[name] for name in own.state_dict()}


def initial_network() -> nn.Sequential:
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10))


def all_batches(sizes: Sequence[int] = BATCH_SIZES, poisson: bool = False) -> list[Batches]:
    spec = DataSpec("synthetic", 3, 8, 10, seed=0, train_size_per_device=SAMPLES, train_size=200)
    source, transform = open_source(spec, Path(), False), Transform((0.5,) * 3, (0.4,) * 3)
    return [
        Batches(load_train_part(source, spec, device, 2), size, transform, 0, device, poisson)
        for device, size in enumerate(sizes, start=1)
    ]


NO_CODECS = Codecs()
Make = Callable[[], nn.Sequential]
Aggregate = Callable[[list[State], list[int]], State]
Rule = Callable[[nn.Module], Aggregate]  # from the network with its first weights


def fedavg(_: nn.Module) -> Aggregate:
    return weighted_average


def server_momentum(beta: float, lr: float) -> Rule:
    """v = beta * v + (average - w), w = w + lr * v, for each parameter w."""

    def rule(network: nn.Module) -> Aggregate:
        weights = {name: own.detach().clone() for name, own in network.named_parameters()}
        velocity = {name: torch.zeros_like(own) for name, own in weights.items()}

        def aggregate(states: list[State], samples: list[int]) -> State:
            network = weighted_average(states, samples)
            for name, before in weights.items():
                velocity[name] = beta * velocity[name] + network[name] - before
                network[name] = before + lr * velocity[name]
            weights.update({name: network[name] for name in weights})
            return network

        return aggregate

    return rule


def server_adam(eta: float, beta1: float, beta2: float, tau: float) -> Rule:
    """m and v of d = average - w, w = w + eta * m / (sqrt(v) + tau), for each parameter w."""

    def rule(network: nn.Module) -> Aggregate:
        weights = {name: own.detach().clone() for name, own in network.named_parameters()}
        m = {name: torch.zeros_like(own) for name, own in weights.items()}
        v = {name: torch.full_like(own, tau**2) for name, own in weights.items()}

        def aggregate(states: list[State], samples: list[int]) -> State:
            network = weighted_average(states, samples)
            for name, before in weights.items():
                change = network[name] - before
                m[name] = beta1 * m[name] + (1 - beta1) * change
                v[name] = beta2 * v[name] + (1 - beta2) * change**2
                network[name] = before + eta * m[name] / (v[name].sqrt() + tau)
            weights.update({name: network[name] for name in weights})
            return network

        return aggregate

    return rule


def federated(
    epochs: int = EPOCHS,
    make: Make = initial_network,
    num_micro_batches: int = 1,
    rule: Rule = fedavg,
    split_point: int = SPLIT,
    codecs: Codecs = NO_CODECS,
    optimizer: MakeOptimizer = Reference.sgd,
    tail: int = 0,
) -> State:
    """Whole networks, each on its device; averaged after every epoch."""
    network, batches = make(), all_batches()
    devices = [
        Reference(copy.deepcopy(network), split_point, num_micro_batches, coding, optimizer, tail)
        for coding in codecs.codings
    ]
    average, aggregate = devices[0].state(), rule(network)
    for epoch in range(1, epochs + 1):
        for device, own in zip(devices, batches, strict=True):
            for iteration in range(len(own)):
                device.step(own, epoch, iteration)
        average = averaged(devices, average, aggregate, codecs)
    return average


def averaged(devices: list[Reference], before: State, aggregate: Aggregate, codecs: Codecs) -> State:
    """The next global network, which all devices hold then: device halves cross on the way up and down."""
    states = [device.state() | codecs.crossed(device.half(), before) for device in devices]
    average = aggregate(states, [SAMPLES] * 2)
    average |= codecs.crossed(devices[0].half(average), before)
    for device in devices:
        device.network.load_state_dict(average)
    return average


def split(
    make: Make = initial_network, split_point: int = SPLIT, codecs: Codecs = NO_CODECS, tail: int = 0
) -> State:
    """One network; each device in turn trains it with an optimiser of its own for its half."""
    whole, batches = Reference(make(), split_point, tail=tail), all_batches()
    half, held = device_layers(whole.network, split_point, tail), whole.state()
    optimizers = [Reference.sgd(half) for _ in batches]
    for epoch in range(1, EPOCHS + 1):
        for optimizer, coding, own in zip(optimizers, codecs.codings, batches, strict=True):
            whole.optimizers[0], whole.coding = optimizer, coding
            for iteration in range(len(own)):
                whole.step(own, epoch, iteration)
            held = codecs.crossed(codecs.crossed(whole.half(), held), None)  # up, and down whole
            whole.network.load_state_dict(whole.state() | held)
    return whole.state()


def split_federated_with_one_server_half(
    make: Make = initial_network,
    split_point: int = SPLIT,
    epochs: int = EPOCHS,
    rule: Rule = fedavg,
    codecs: Codecs = NO_CODECS,
    tail: int = 0,
) -> State:
    """A device half on each device, averaged; one server half that sees iteration 1 of both, then 2, ..."""
    network, batches = make(), all_batches()
    server = server_layers(network, split_point, tail)
    halves = [copy.deepcopy(device_layers(network, split_point, tail)) for _ in batches]
    devices = [
        Reference(
            nn.Sequential(*half[:split_point], *server, *half[split_point:]),
            split_point,
            1,
            coding,
            tail=tail,
        )
        for half, coding in zip(halves, codecs.codings, strict=True)
    ]
    for device in devices:
        device.optimizers[1] = devices[0].optimizers[1]
    average, aggregate = devices[0].state(), rule(devices[0].network)
    for epoch in range(1, epochs + 1):
        for iteration in range(max(map(len, batches))):
            for device, own in zip(devices, batches, strict=True):
                if iteration < len(own):
                    device.step(own, epoch, iteration)
        average = averaged(devices, average, aggregate, codecs)
    return dict(zip(network.state_dict(), average.values(), strict=True))  # under the units' own names
