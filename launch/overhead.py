"""What a micro-batch costs besides its computing: CPU time of all processes less that of a plain loop.

    python -m launch.overhead --devices 1 2 4 --micro-batches 1 10 20 100

Trains VGG5 (P = 1, 100 images of 32x32 pixels, no link limit). A plain loop of the same two halves, in one
process and without RPC, runs before and after each job, as many at once as the job keeps cores busy. The
figures of a job are medians of its epochs, without the first and the last one.
"""

import argparse
import csv
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import nn

from launch.script import run_script
from pipar_rpc.base.command import torchrun_here
from pipar_rpc.data import Batches, Images
from pipar_rpc.data.batches import Transform
from pipar_rpc.models import ModelSpec, Norm, build_model
from pipar_rpc.models.cut import device_layers, server_layers
from pipar_rpc.results.terminal import table

BATCH, IMAGE, LR = 100, 32, 0.01
PLAIN_ITERATIONS = 20
POLL_S = 0.02
HEADERS = ["K", "N", "s/iteration", "plain loop", "CPU device", "CPU server", "plain CPU", "ms/micro-batch"]
JOB = [
    *("data=synthetic", "network=none", "enable_val=false", "enable_test=false", "aggregation.every=0"),
    *("checkpoint.every=0", f"batch_size={BATCH}", f"data.image_size={IMAGE}", f"optimizer.lr={LR}"),
]


class Cost(NamedTuple):
    """Seconds of one iteration: of the clock, and of the CPU in both parts."""

    wall: float
    device: float
    server: float

    @property
    def cpu(self) -> float:
        return self.device + self.server


def middle(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(figures) for figures in zip(*costs, strict=True)))


def plain_loop(num_micro_batches: int) -> Cost:
    """One process does what a device and the server do, micro-batch after micro-batch: the same data, too."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = ModelSpec("vgg5", norm=Norm.batch, channels=3, image_size=IMAGE, num_classes=10)
    network = build_model(spec)
    halves = device_layers(network, 1), server_layers(network, 1)
    optimizers = [torch.optim.SGD(half.parameters(), LR, momentum=0.9) for half in halves]
    samples = BATCH * PLAIN_ITERATIONS
    pixels = torch.randint(256, (samples, 3, IMAGE, IMAGE), dtype=torch.uint8)
    images = Images(pixels, torch.randint(10, (samples,)))
    batches = Batches(images, BATCH, Transform((0.5,) * 3, (0.4,) * 3), seed=0, device=1)
    costs = [one_iteration(halves, optimizers, batches, n, num_micro_batches) for n in range(len(batches))]
    return middle(costs[2:])


def one_iteration(
    halves: tuple[nn.Module, nn.Module],
    optimizers: list[torch.optim.SGD],
    batches: Batches,
    iteration: int,
    num_micro_batches: int,
) -> Cost:
    began, clock, device, server = time.perf_counter(), time.process_time, -time.process_time(), 0.0
    images, labels = batches.get(1, iteration)
    sent = []
    for x, y in zip(
        images.tensor_split(num_micro_batches), labels.tensor_split(num_micro_batches), strict=True
    ):
        activation = halves[0](x)
        start = clock()
        leaf = activation.detach().requires_grad_()
        outputs = halves[1](leaf)
        loss = nn.functional.cross_entropy(outputs, y)
        (loss * (len(y) / BATCH)).backward()
        float(loss.detach()), int((outputs.argmax(1) == y).sum())
        sent.append((activation, leaf.grad))
        server += clock() - start
    start = clock()
    optimizers[1].step()
    optimizers[1].zero_grad()
    server += clock() - start
    for activation, gradient in sent:
        activation.backward(gradient)
    optimizers[0].step()
    optimizers[0].zero_grad()
    return Cost(time.perf_counter() - began, device + clock() - server, server)


def plain(num_micro_batches: int, processes: int) -> Cost:
    """The plain loop in a process of its own; as many at once as processes compute in the job."""
    command = [sys.executable, "-m", "launch.overhead", f"--plain={num_micro_batches}"]
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    said = [loop.communicate()[0] for loop in loops]
    for loop in loops:
        if loop.returncode:
            raise subprocess.CalledProcessError(loop.returncode, command)
    return middle([Cost(*(float(cell) for cell in line.split())) for line in said])


def ranks(torchrun: int) -> list[psutil.Process]:
    """The processes of all ranks, rank 0 first, once they are there."""
    children = psutil.Process(torchrun).children(recursive=True)
    by_rank = {child.environ().get("RANK"): child for child in children}
    return [by_rank[str(rank)] for rank in range(len(by_rank.keys() - {None}))]


def epochs(torchrun: subprocess.Popen[bytes], results: Path) -> Iterator[tuple[float, list[float]]]:
    """At the end of each epoch: the seconds of an iteration, and the CPU seconds of each rank so far."""
    seen = 0
    while torchrun.poll() is None:
        time.sleep(POLL_S)
        if not results.exists():
            continue
        with results.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if len(rows) > seen:
            seen = len(rows)
            cpu = [sum(process.cpu_times()[:2]) for process in ranks(torchrun.pid)]
            yield float(rows[-1]["iteration_time_s"]), cpu


def train(folder: Path, devices: int, number: int, iterations: int, num_epochs: int, more: list[str]) -> Cost:
    """The cost of an iteration of all K devices in a real job."""
    command = [*torchrun_here(devices + 1), "-m", "pipar_rpc", *JOB]
    command += [f"epochs={num_epochs + 2}", f"hydra.run.dir={folder}"]
    command += [f"pipeline.num_micro_batches={number}", f"data.train_size={BATCH * iterations * devices}"]
    command += [f"data.train_size_per_device={BATCH * iterations}", *more]
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        job = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        ends = list(epochs(job, folder / "results.csv"))
    if job.returncode:
        raise subprocess.CalledProcessError(
            job.returncode, command, stderr=(folder / "log").read_text()[-500:]
        )
    costs = [
        Cost(
            wall,
            sum(now[1:], -sum(before[1:])) / iterations,
            (now[0] - before[0]) / iterations,
        )
        for (_, before), (wall, now) in itertools.pairwise(ends[:-1])
    ]
    return middle(costs)


def row(devices: int, number: int, job: Cost, loop: Cost) -> list[str]:
    extra = 1000 * (job.cpu - devices * loop.cpu) / (devices * number)
    device = 1000 * (job.device - devices * loop.device) / (devices * number)
    figures = [job.wall, loop.wall, job.device / devices, job.server / devices, loop.cpu]
    cells = [f"{figure:.3f}" for figure in figures]
    return [str(devices), str(number), *cells, f"{extra:.2f} ({device:.2f} + {extra - device:.2f})"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4], help="K (default 1 2 4)")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1, 10, 20, 100], help="N")
    parser.add_argument("--iterations", type=int, default=20, help="of an epoch (default 20)")
    parser.add_argument("--epochs", type=int, default=5, help="that count (default 5)")
    parser.add_argument("--plain", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of pipar_rpc, after --")
    args = parser.parse_args()
    if args.plain:
        print(*plain_loop(args.plain))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="pipar-overhead") as name:
        for devices in args.devices:
            processes = min(devices + 1, os.cpu_count() or 1)
            for number in args.micro_batches:
                folder = Path(name, f"{devices}-{number}")
                before = plain(number, processes)
                job = train(folder, devices, number, args.iterations, args.epochs, args.overrides)
                rows.append(row(devices, number, job, middle([before, plain(number, processes)])))
                print(*table(HEADERS, rows[-1:]), sep="\n", flush=True)
    print(*table(HEADERS, rows), sep="\n")


if __name__ == "__main__":
    run_script("launch.overhead", main)
