"""What is not trained: halves without parameters or with frozen ones get no gradient and cost nothing."""

import copy
import csv
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipar_rpc.device import Cut, Device
from pipar_rpc.exchange import LocalExchange
from pipar_rpc.link import Link
from pipar_rpc.models import CUSTOM, DropoutStreams, ModelSpec, Norm, build_model, build_part
from pipar_rpc.placement import fill
from pipar_rpc.prediction import DeviceFacts, Predictor, ServerFacts, UnitSizes, move_seconds, needed_bytes
from pipar_rpc.server import ServerHalf
from pipar_rpc.survey import unit_sizes
from pipar_rpc.timeline import Stage, Timeline
from pipar_rpc.unit_timer import run_once, timers

from . import test_strategies
from .conftest import SMALL, sweep_of
from .loops import CPU, NATIVE, OPTIMIZER, assert_close, make_batches, train_plain, train_split
from .own_network import FROZEN, WIDTH
from .test_config import message
from .test_rpc import job_dirs, rows_of

CLASSES = 10
TRAINED = {  # which units have anything to train
    "frozen_first": [False, True, True],
    "pooling_first": [False, True, True, True],
    "frozen_middle": [True, False, True],
    "frozen_last": [True, True, False],
}
CUTS = [(name, point) for name, trained in TRAINED.items() for point in range(1, len(trained) + 1)]


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(CUSTOM, Norm.batch, 3, 8, CLASSES, target=f"tests.own_network.{name}")


def make(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    return build_model(spec_of(name))


def batches():
    """24 samples: two batches of 10 and one of 4."""
    return make_batches(24, image_size=8, num_classes=CLASSES, batch_size=10)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("num_micro_batches", [1, 3, 10])
@pytest.mark.parametrize(("name", "split_point"), CUTS)
def test_split_equals_plain_training_of_what_is_not_frozen(name, split_point, num_micro_batches):
    network = make(name)
    plain, loss, _ = train_plain(copy.deepcopy(network), batches(), num_micro_batches)
    frozen = {key: own.clone() for key, own in network.named_parameters() if not own.requires_grad}
    state, report, _ = train_split(network, batches(), split_point, num_micro_batches)
    assert_close(state, plain, tolerance=1e-9)
    assert report.loss / report.samples == pytest.approx(loss, abs=1e-9)
    assert all(torch.equal(state[key], own) for key, own in frozen.items())
    done = any(TRAINED[name][:split_point])
    assert (Stage.DEVICE_BACKWARD in report.stages, Stage.UPDATE in report.stages) == (done, done)


@pytest.mark.usefixtures("double_precision")
def test_layers_that_move_make_a_half_trained_or_frozen():
    """P = 1, 2, 1: the device half is frozen, trained, and frozen again; momentum moves with the layers."""
    network, data = make("frozen_first"), batches()
    plain = copy.deepcopy(network)
    sgd = torch.optim.SGD([own for own in plain.parameters() if own.requires_grad], **OPTIMIZER)
    for epoch in (1, 2, 3):
        for iteration in range(len(data)):
            images, labels = data.get(epoch, iteration)
            sgd.zero_grad()
            nn.functional.cross_entropy(plain(images), labels).backward()
            sgd.step()
    server = ServerHalf(network[1:], OPTIMIZER, DropoutStreams(network[1:], 0, 1), CPU, Timeline())

    def cut(split_point, state):
        layers = build_part(spec_of("frozen_first"), split_point)
        fill(layers, state)
        return Cut(layers, LocalExchange(server.process), 1, DropoutStreams(layers, 0, 1), NATIVE)

    first = cut(1, network[:1].state_dict())
    idle = (lambda iteration, loss: None, Link(), 1, CPU, Timeline())
    device = Device("device1", first, OPTIMIZER, data, *idle, make_cut=cut)
    stages = [device.train(1, 0, len(data)).stages]
    whole = {key: own.clone() for key, own in (device.state() | server.state()).items()}
    moving = network[1:2].state_dict()
    down = {key: own for key, own in server.momentum().items() if key in moving}
    assert down.keys() == {"1.0.weight"}  # the bias is frozen
    assert device.recut(2, {key: whole[key] for key in moving}, down) == {}
    server.recut(copy.deepcopy(network[2:]), DropoutStreams(network[2:], 0, 1), {})
    stages.append(device.train(2, 0, len(data)).stages)
    whole = {key: own.clone() for key, own in (device.state() | server.state()).items()}
    up = device.recut(1, {}, {})
    assert up.keys() == {"1.0.weight"}
    half = make("frozen_first")[1:]
    half.load_state_dict({key: whole[key] for key in half.state_dict()})
    server.recut(half, DropoutStreams(half, 0, 1), up)
    stages.append(device.train(3, 0, len(data)).stages)
    assert [Stage.DEVICE_BACKWARD in own for own in stages] == [False, True, False]
    assert_close(device.state() | server.state(), plain.state_dict(), tolerance=1e-9)
    device.close()


JOBS = {  # name, strategy, sfl.server, P, N
    f"{name}_{strategy}_{server}": (name, strategy, server, 1, 3 if strategy == "pipar" else 1)
    for name in ("frozen_first", "pooling_first")
    for strategy, server in (
        *(("fl", "replicated"), ("sl", "replicated"), ("sfl", "replicated"), ("sfl", "shared")),
        ("pipar", "replicated"),
    )
} | {
    "middle": ("frozen_middle", "pipar", "replicated", 1, 3),
    "last": ("frozen_last", "pipar", "replicated", 2, 3),
    "partly": ("frozen_first", "pipar", "replicated", 2, 3),
    "selected": ("pooling_first", "pipar", "replicated", 1, 1),
}


@pytest.fixture(scope="module")
def sweep(module_processes):
    jobs = {}
    for number, (name, strategy, server, point, count) in enumerate(JOBS.values()):
        jobs[f"{number:02}"] = (
            *("model=custom", f"model._target_=tests.own_network.{name}", f"strategy={strategy}"),
            *(f"sfl.server={server}", f"pipeline.split_point={point}"),
            f"pipeline.num_micro_batches={count}",
        )
    jobs[f"{[*JOBS].index('selected'):02}"] += (
        *("selector.profile_iterations=1", "selector.split_points=[1]", "timeline.epochs=1"),
    )
    overrides = [option for option in SMALL if not option.startswith(("epochs", "network", "data="))]
    overrides += ["network=none", "data=synthetic", f"epochs={test_strategies.EPOCHS}"]
    overrides += [f"devices.overrides.2.batch_size={test_strategies.BATCH_SIZES[1]}"]
    arguments = [*sweep_of(module_processes.directory, jobs), *overrides]
    done = module_processes.torchrun(3, *arguments, module="tests.float64_main", timeout=180)
    assert done.code == 0, done.err
    return dict(zip(JOBS, (path for _, path in sorted(job_dirs(module_processes).items())), strict=True))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("job", JOBS)
def test_over_rpc_every_strategy_equals_its_plain_loop(sweep, job):
    name, strategy, server, point, count = JOBS[job]
    built = partial(make, name)
    if job == "selected":
        count = int(rows_of(sweep[job])[0]["num_micro_batches"].split(";")[0])
    match strategy, server:
        case "sl", _:
            reference = test_strategies.split(built, point)
        case "sfl", "shared":
            reference = test_strategies.split_federated_with_one_server_half(built, point)
        case _:
            reference = test_strategies.federated(make=built, num_micro_batches=count)
    assert_close(torch.load(sweep[job] / "model.pt"), reference, 1e-9)


def test_no_gradient_comes_down(sweep):
    """Only models: of the frozen half, to both devices; of a half without parameters nothing."""
    half = sum(own.nbytes for own in make("frozen_first").double()[:1].state_dict().values())
    samples = 2 * test_strategies.SAMPLES
    for job, models in (("frozen_first_pipar_replicated", 2 * half), ("pooling_first_sfl_shared", 0)):
        activation = (WIDTH * 4 * 4 if models else 3 * 4 * 4) * 8
        for row in rows_of(sweep[job]):
            assert int(row["downlink_bytes"]) == models, job
            assert int(row["uplink_bytes"]) == samples * (activation + 8) + models, job
    for row in rows_of(sweep["middle"]):
        assert int(row["downlink_bytes"]) > samples * WIDTH * 4 * 4 * 8


def test_the_selector_of_a_running_job_knows(sweep):
    with (sweep["selected"] / "selection.csv").open(newline="") as file:
        rows = {int(row["split_point"]): row for row in csv.DictReader(file)}
    assert (float(rows[1]["downlink"]), float(rows[1]["device_backward"])) == (0, 0)
    assert float(rows[2]["device_backward"]) > 0
    assert (sweep["selected"] / "trace.json").exists()


def test_a_network_with_nothing_to_train_is_refused():
    target = "model._target_=tests.own_network.frozen_whole"
    assert f"{target}: must be a function whose network has something to train" in message(
        "model=custom", target, "data=synthetic", "data.image_size=8"
    )


@pytest.mark.parametrize("name", FROZEN)
def test_units_are_timed_as_they_are_trained(name):
    """A clock that counts what is computed: backward passes where something is trained there or before."""
    clock = SimpleNamespace(now=0)

    def tick():
        clock.now += 1
        return clock.now

    network, entering = make(name), []
    for layers in network:
        layers.register_forward_pre_hook(lambda layers, inputs: entering.append(inputs[0].requires_grad))
    units = timers(network, CPU, tick)
    for _ in range(2):
        run_once(units, torch.rand(2, 3, 8, 8))
    trained = TRAINED[name]
    times = [unit.times() for unit in units]
    reached = np.logical_or.accumulate(trained).tolist()
    assert [unit.backward[2] > 0 for unit in times] == reached
    assert [unit.update > 0 for unit in times] == trained
    assert [unit.forward[2] > 0 for unit in times] == [True] * len(trained)
    assert entering == 2 * [False, *reached[:-1]]  # whether the gradient of the input is computed
    assert [unit.trained for unit in unit_sizes(spec_of(name))] == trained


def test_what_is_frozen_keeps_nothing_for_a_backward_pass():
    sizes = unit_sizes(spec_of("frozen_first"))
    assert sizes[0].held_bytes == 0
    assert sizes[1].held_bytes > 0


def test_the_prediction_of_a_frozen_half_has_no_way_back():
    """By hand: forward 1 s, up 2 s, server 3 + 4 s, and the answer's latency."""
    unit = {"forward": {10: 1.0}, "backward": {10: 5.0}, "update": 7.0}
    whole = [SimpleNamespace(name="unit", **unit) for _ in range(3)]
    server = [SimpleNamespace(name="unit", forward={10: 1.5}, backward={10: 2.0}, update=0.0)] * 3
    sizes = [UnitSizes(25_000 - 8, 1000, 0, False), UnitSizes(25_000 - 8, 500, 0), UnitSizes(0, 300, 0)]
    device = DeviceFacts(whole, 1.0, 1.0, 0.25, 0.125, 10, 1, np.inf)
    predictor = Predictor(device, ServerFacts(server, {10: 1.0}), sizes, 1)
    first, second = (predictor.candidate(point, 1) for point in (1, 2))
    assert first.iteration_s == pytest.approx(1 + 2 + 0.25 + 3 + 4 + 0.125)
    assert (first.stages.downlink, first.stages.device_backward, first.stages.update) == (0, 0, 0)
    down = (25_000 - 8) * 10 * 8e-6
    assert second.iteration_s == pytest.approx(2 + 2 + 0.25 + 1.5 + 2 + down + 0.125 + 10 + 14)
    assert predictor.published_counts()[0] == 10  # 1 + ceil(9 / 1): the forward pass alone
    assert needed_bytes(sizes, 10) == [1000, 2500, 3400]
    assert move_seconds(sizes, device, 0, 2) == pytest.approx((1000 + 2 * 500) * 8e-6)
    assert move_seconds(sizes, device, 2, 0) == pytest.approx(500 * 8e-6)
