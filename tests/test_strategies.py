"""Federated, split and split federated learning through the same loops, against plain loops."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pipar_rpc.data import Batches, DataSpec, Transform, load_train_part, open_source
from pipar_rpc.fedavg import weighted_average
from pipar_rpc.microbatch import split_batch
from pipar_rpc.models import ModelSpec, Norm, build_model
from pipar_rpc.rotation import Rotation
from pipar_rpc.worker import open_pool

from .conftest import SMALL
from .loops import assert_close
from .test_rpc import job_dirs, rows_of

SPLIT, BATCH_SIZES, EPOCHS = 2, (10, 4), 2  # 2 iterations on device 1, 5 on device 2
SAMPLES = 20
JOBS = [("fl", "replicated"), ("fl", "shared"), ("sl", "replicated"), ("sl", "shared")]
JOBS += [("sfl", "replicated"), ("sfl", "shared")]


class Reference:
    """A network in two halves with an optimiser each, as one device and its server half see it."""

    def __init__(self, network, split_point=SPLIT, num_micro_batches=1):
        self.network, self.num_micro_batches = network, num_micro_batches
        self.optimizers = [self.sgd(network[:split_point]), self.sgd(network[split_point:])]

    @staticmethod
    def sgd(half):
        return torch.optim.SGD([{"params": list(half.parameters())}], lr=0.01, momentum=0.9)

    def step(self, batches, epoch, iteration):
        images, labels = batches.get(epoch, iteration)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        for part, x, y in split_batch(images, labels, self.num_micro_batches, epoch, iteration):
            (F.cross_entropy(self.network(x), y) * part.weight).backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def state(self):
        return {key: value.clone() for key, value in self.network.state_dict().items()}


def initial_network():
    torch.manual_seed(0)
    return build_model(ModelSpec("vgg5", Norm.group, channels=3, image_size=8, num_classes=10))


def all_batches():
    spec = DataSpec("synthetic", 3, 8, 10, seed=0, train_size_per_device=SAMPLES, train_size=200)
    source, transform = open_source(spec, None, False), Transform((0.5,) * 3, (0.4,) * 3)
    return [
        Batches(load_train_part(source, spec, device, 2), size, transform, seed=0, device=device)
        for device, size in enumerate(BATCH_SIZES, start=1)
    ]


def federated(epochs=EPOCHS, make=initial_network, num_micro_batches=1):
    """Whole networks, each on its device; averaged after every epoch."""
    network, batches = make(), all_batches()
    devices = [Reference(copy.deepcopy(network), SPLIT, num_micro_batches) for _ in batches]
    for epoch in range(1, epochs + 1):
        for device, own in zip(devices, batches, strict=True):
            for iteration in range(len(own)):
                device.step(own, epoch, iteration)
        average = weighted_average([device.state() for device in devices], [SAMPLES] * 2)
        for device in devices:
            device.network.load_state_dict(average)
    return average


def split(make=initial_network, split_point=SPLIT):
    """One network; each device in turn trains it with an optimiser of its own for its half."""
    whole, batches = Reference(make(), split_point), all_batches()
    optimizers = [Reference.sgd(whole.network[:split_point]) for _ in batches]
    for epoch in range(1, EPOCHS + 1):
        for optimizer, own in zip(optimizers, batches, strict=True):
            whole.optimizers[0] = optimizer
            for iteration in range(len(own)):
                whole.step(own, epoch, iteration)
    return whole.state()


def split_federated_with_one_server_half(make=initial_network, split_point=SPLIT):
    """A device half on each device, averaged; one server half that sees iteration 1 of both, then 2, ..."""
    network, batches = make(), all_batches()
    server, own = network[split_point:], [copy.deepcopy(network[:split_point]) for _ in batches]
    devices = [Reference(torch.nn.Sequential(*half, *server), split_point) for half in own]
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


REFERENCES = {
    ("sl", "replicated"): split,
    ("sl", "shared"): split,
    ("sfl", "shared"): split_federated_with_one_server_half,
}


@pytest.fixture(scope="module")
def sweep(module_processes):
    overrides = [option for option in SMALL if not option.startswith("epochs")]
    overrides += [f"epochs={EPOCHS}", "model.norm=group", f"pipeline.split_point={SPLIT}"]
    overrides += [f"devices.overrides.2.batch_size={BATCH_SIZES[1]}", "--multirun"]
    overrides += ["strategy=fl,sl,sfl", "sfl.server=replicated,shared"]
    done = module_processes.torchrun(3, *overrides, module="tests.float64_main", timeout=180)
    assert done.code == 0, done.err
    return done, job_dirs(module_processes)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("number", range(len(JOBS)))
def test_each_strategy_equals_its_plain_loop(sweep, number):
    _, jobs = sweep
    reference = REFERENCES.get(JOBS[number], federated)()
    assert_close(torch.load(jobs[number] / "model.pt"), reference, 1e-9)


def test_rows_say_what_was_done(sweep):
    done, jobs = sweep
    for number, (strategy, _) in enumerate(JOBS):
        for row in rows_of(jobs[number]):
            assert row["strategy"] == strategy
            assert row["num_micro_batches"] == "1"
            assert row["split_point"] == ("5" if strategy == "fl" else str(SPLIT))
            assert 0 <= float(row["test_accuracy"]) <= 1
    assert "strategy=fl: devices hold 5 of 5 cut units, one micro-batch" in done.out


def test_split_learning_pays_for_handing_the_device_half_on(sweep):
    _, jobs = sweep
    state = torch.load(jobs[2] / "model.pt")
    half = sum(value.nbytes for key, value in state.items() if key.startswith(("conv1", "conv2")))
    activations = 2 * SAMPLES * 64 * 2 * 2 * 8
    first, second = rows_of(jobs[2])
    for row in (first, second):
        assert int(row["uplink_bytes"]) == activations + 2 * SAMPLES * 8 + 2 * half
    assert int(first["downlink_bytes"]) == activations + half  # device 1 begins with the first weights
    assert int(second["downlink_bytes"]) == activations + 2 * half


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms())
def test_a_rotation_runs_iteration_by_iteration_whoever_is_first(lengths, random):
    ran = []
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, len(lengths))
        rotation.lengths = lengths
        calls = [(index, number) for index, length in enumerate(lengths) for number in range(2 * length)]
        random.shuffle(calls)
        for index, number in calls:
            rotation.lane(index).submit(
                number, lambda index=index, number=number: ran.append((index, number))
            )
        rotation.settle(5)
    assert ran == in_rotation(lengths, range(len(lengths)))


def in_rotation(lengths, present):
    """Two epochs, from the start."""
    return [
        (index, epoch * lengths[index] + iteration)
        for epoch in range(2)
        for iteration in range(max(lengths[index] for index in present))
        for index in present
        if iteration < lengths[index]
    ]


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.data())
def test_a_rotation_passes_over_a_device_that_has_left(lengths, data):
    """Whatever it has done before, the others' turns are what they would be without it."""
    gone = data.draw(st.integers(0, len(lengths) - 1))
    done = data.draw(st.integers(0, 2 * lengths[gone]))
    ran = []
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, len(lengths))
        rotation.lengths = lengths
        for index, length in enumerate(lengths):
            for number in range(done if index == gone else 2 * length):
                call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
                rotation.lane(index).submit(number, call)
        rotation.lane(gone).leave()
        rotation.settle(5)
    others = [index for index in range(len(lengths)) if index != gone]
    assert [entry for entry in ran if entry[0] != gone] == in_rotation(lengths, others)


def test_a_rotation_begins_inside_an_epoch():
    ran = []
    with open_pool("rotation") as pool:
        rotation = Rotation(pool, 2)
        rotation.lengths, rotation.iteration = (2, 3), 2
        for index, number in ((0, 0), (1, 1), (0, 1), (1, 0)):
            call = lambda index=index, number=number: ran.append((index, number))  # noqa: E731
            rotation.lane(index).submit(number, call)
        rotation.settle(5)
    assert ran == [(1, 0), (0, 0), (1, 1), (0, 1)]  # the first epoch has one iteration left, of device 2
