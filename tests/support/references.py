"""Strategies as plain loops over whole networks: what training over RPC must equal."""

import copy
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from pipar_rpc.base.states import State
from pipar_rpc.data import Batches, DataSpec, Transform, load_train_part, open_source
from pipar_rpc.models import ModelSpec, Norm, build_model
from pipar_rpc.training.fedavg import weighted_average

SPLIT, BATCH_SIZES, EPOCHS = 2, (10, 4), 2  # 2 iterations on device 1, 5 on device 2
SAMPLES = 20


class Reference:
    """A network in two halves with an optimiser each, as one device and its server half see it."""

    def __init__(self, network: nn.Sequential) -> None:
        self.network = network
        self.optimizers = [self.sgd(network[:SPLIT]), self.sgd(network[SPLIT:])]

    @staticmethod
    def sgd(half: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(half.parameters(), lr=0.01, momentum=0.9)

    def step(self, batches: Batches, epoch: int, iteration: int) -> None:
        images, labels = batches.get(epoch, iteration)
        loss = F.cross_entropy(self.network(images), labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def state(self) -> State:
        return {key: value.clone() for key, value in self.network.state_dict().items()}


def initial_network() -> nn.Sequential:
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10))


def all_batches() -> list[Batches]:
    spec = DataSpec("synthetic", 3, 8, 10, seed=0, train_size_per_device=SAMPLES, train_size=200)
    source, transform = open_source(spec, Path("nowhere"), False), Transform((0.5,) * 3, (0.4,) * 3)
    return [
        Batches(load_train_part(source, spec, device, 2), size, transform, seed=0, device=device)
        for device, size in enumerate(BATCH_SIZES, start=1)
    ]


def federated(epochs: int = EPOCHS) -> State:
    """Whole networks, each on its device; averaged after every epoch."""
    network, batches = initial_network(), all_batches()
    devices = [Reference(copy.deepcopy(network)) for _ in batches]
    for epoch in range(1, epochs + 1):
        for device, own in zip(devices, batches, strict=True):
            for iteration in range(len(own)):
                device.step(own, epoch, iteration)
        average = weighted_average([device.state() for device in devices], [SAMPLES] * 2)
        for device in devices:
            device.network.load_state_dict(average)
    return average


def split() -> State:
    """One network; each device in turn trains it with an optimiser of its own for its half."""
    whole, batches = Reference(initial_network()), all_batches()
    optimizers = [Reference.sgd(whole.network[:SPLIT]) for _ in batches]
    for epoch in range(1, EPOCHS + 1):
        for optimizer, own in zip(optimizers, batches, strict=True):
            whole.optimizers[0] = optimizer
            for iteration in range(len(own)):
                whole.step(own, epoch, iteration)
    return whole.state()


def split_federated_with_one_server_half() -> State:
    """A device half on each device, averaged; one server half that sees iteration 1 of both, then 2, ..."""
    network, batches = initial_network(), all_batches()
    server = network[SPLIT:]
    devices = [Reference(torch.nn.Sequential(*copy.deepcopy(network[:SPLIT]), *server)) for _ in batches]
    for device in devices:
        device.optimizers[1] = devices[0].optimizers[1]
    for epoch in range(1, EPOCHS + 1):
        for iteration in range(max(map(len, batches))):
            for device, own in zip(devices, batches, strict=True):
                if iteration < len(own):
                    device.step(own, epoch, iteration)
        average = weighted_average([device.state() for device in devices], [SAMPLES] * 2)
        for device in devices:
            device.network.load_state_dict(average)
    return dict(zip(network.state_dict(), average.values(), strict=True))  # under the units' own names
