"""The pause between two rounds: what rank 0 does before the devices may train again.

    python -m launch.pause --against ../older

Networks of K devices are averaged, a checkpoint is taken and the average is loaded into the server halves, in
this process: real server halves with momentum, a real coordinator and real checkpoints. The devices answer at
once, with copies; no link is emulated. Between two pauses, as in a round that takes longer than it, a
checkpoint that is still being written is waited for, which is not counted. With `--against`, another checkout
does the same, in turns. The first pause of a process does not count. The table shows medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from launch.script import run_script
from pipar_rpc import hydra_compose
from pipar_rpc.aggregation.fedavg import FedAvg
from pipar_rpc.base.memory import keep_freed_memory, peak_rss_mb
from pipar_rpc.checkpoints import saving
from pipar_rpc.checkpoints.file import CheckpointFolder
from pipar_rpc.coordination.aggregation import Aggregator
from pipar_rpc.coordination.build import build_server_half
from pipar_rpc.coordination.coordinator import Coordinator, Trained
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.epoch_result import EpochSums
from pipar_rpc.coordination.membership import Membership
from pipar_rpc.coordination.rounds import Position, Round
from pipar_rpc.models import build_model, device_layers, server_layers
from pipar_rpc.plan.deadlines import Deadlines, DeadlineSpec
from pipar_rpc.plan.plan import Plan, make_plan
from pipar_rpc.results.terminal import table
from pipar_rpc.testbed.link import Link
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.device_loop import Device
from pipar_rpc.training.round_report import RoundReport

ROOT = Path(__file__).parents[1]
HEADERS = ["code", "average and distribution", "checkpoint", "pause", "rank 0's peak"]
State = dict[str, torch.Tensor]


class Remote:
    """A device that holds its half and its momentum, and answers at once."""

    lost = None

    def __init__(self, half: State, momentum: State) -> None:
        self.half, self.momentum = half, momentum

    def call(self, method: Any, *args: Any) -> "Future[Any]":
        answers = {Device.upload: self.half, Device.optimizer_state: self.momentum}
        answer: Future[Any] = Future()
        answer.set_result({name: own.clone() for name, own in answers.get(method, {}).items()})
        return answer


def momentum_of(layers: nn.Module) -> State:
    return {
        f"{name}/momentum_buffer": torch.randn_like(own.detach()) for name, own in layers.named_parameters()
    }


def make_handle(plan: Plan, number: int, network: nn.Sequential) -> DeviceHandle:
    """A device that has trained: its momentum, and weights that differ from the others'."""
    job = plan.devices[number - 1]
    halves = [cut(network, job.split_point, job.tail_units) for cut in (device_layers, server_layers)]
    state = {name: own.clone() for name, own in halves[0].state_dict().items()}
    layers = server_layers(build_model(job.model), job.split_point, job.tail_units)
    node: Any = SimpleNamespace(device=torch.device("cpu"))
    half = build_server_half(layers, job, node, Timeline(), momentum_of(halves[1]))
    ignore = {name: lambda *_: None for name in ("heard", "listen", "remind", "check", "leave")}
    port: Any = SimpleNamespace(downlink=Link(), silent_s=0.0, slowest_s=None, **ignore)
    remote: Any = Remote(state, momentum_of(halves[0]))
    deadlines = Deadlines(DeadlineSpec(600, 600, 600))
    handle = DeviceHandle(f"device{number}", remote, port, half, Timeline(), deadlines, True, (1,), 2)
    handle.has_state = True  # in an older checkout it says nothing
    return handle


def saver_of(
    folder: CheckpointFolder, coordinator: Coordinator, best: State, stack: ExitStack
) -> tuple[saving.Saver, Any]:
    """A saver, and a function that waits for what it writes; an older one writes at once."""
    place: Any = folder
    wait: Any = list
    if hasattr(saving, "Writer"):
        from pipar_rpc.checkpoints.background import writing

        place = writer = stack.enter_context(writing(folder))
        wait = writer.finish
    group: Any = SimpleNamespace(returned=list, can_regroup=False)
    kept: Any = SimpleNamespace(state=best)
    ledger: Any = SimpleNamespace(state=list)
    return saving.Saver(place, coordinator, group, kept, ledger, 0.0), wait


def pauses(options: argparse.Namespace, folder: Path) -> list[tuple[float, float]]:
    """Seconds of each pause: for the average and its distribution, and for the checkpoint."""
    overrides = [f"model={options.model}", f"pipeline.split_point={options.split_point}", "data=synthetic"]
    overrides += ["data.image_size=32", *options.overrides]
    plan = make_plan(hydra_compose.compose(overrides)[0], 1 + options.devices, Path("data"), True)
    torch.manual_seed(0)
    network, found = build_model(plan.devices[0].model), []
    handles = [make_handle(plan, number, network) for number in range(1, 1 + options.devices)]
    membership = Membership(handles)
    coordinator = Coordinator(membership, -1, False, aggregator=Aggregator(FedAvg(), network.state_dict()))
    with ExitStack() as stack:
        best = {name: own.clone() for name, own in network.state_dict().items()}
        saver, wait = saver_of(CheckpointFolder(folder, keep=1), coordinator, best, stack)
        for number in range(1, options.rounds + 2):
            membership.begin_round()
            began = time.monotonic()
            uploads = {handle: handle.call(Device.upload) for handle in handles}
            reports = {handle: RoundReport(iterations=1, samples=10, losses=[0.0]) for handle in handles}
            trained = Trained(Round(number, 0, 2, True), reports, uploads)
            del uploads
            averaged = coordinator.average(trained, EpochSums(handles))
            ended = time.monotonic()
            saver.after_round(Position(number + 1), averaged, plan, [])
            found.append((ended - began, time.monotonic() - ended))
            wait()
    return found[1:]


def worker(options: argparse.Namespace) -> None:
    """Prints the pauses of this process, and its peak memory in MB."""
    torch.set_num_threads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="pipar-pause", dir=options.folder) as name:
        found = pauses(options, Path(name))
    print(json.dumps({"pauses": found, "peak_mb": peak_rss_mb()}))


def measured(checkout: Path, arguments: list[str]) -> dict[str, Any]:
    """What a process with the package of a checkout prints; this script is the same for all."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"env": environment, "capture_output": True, "text": True}
    done = subprocess.run(command, cwd=checkout, check=True, **options)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    both = [pause for run in runs for pause in run["pauses"]]
    figures = [statistics.median(pause[part] for pause in both) for part in (0, 1)]
    figures.append(statistics.median(sum(pause) for pause in both))
    peak = max(run["peak_mb"] for run in runs)
    return [name, *(f"{figure:.2f} s" for figure in figures), f"{peak:.0f} MB"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.pause", description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns with this one")
    parser.add_argument("--devices", type=int, default=16, help="K (default 16)")
    parser.add_argument("--model", default="vgg16", help="default vgg16")
    parser.add_argument("--split-point", type=int, default=1, help="P (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="pauses of a process (default 3)")
    parser.add_argument("--times", type=int, default=3, help="processes of each checkout (default 3)")
    parser.add_argument("--folder", help="folder for the checkpoints (default: the system's)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of pipar_rpc, after --")
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    checkouts = {"this": ROOT} | ({"other": options.against.resolve()} if options.against else {})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for _ in range(options.times):
        for name, checkout in checkouts.items():
            runs[name].append(measured(checkout, sys.argv[1:]))
            print(*table(HEADERS, [row(name, runs[name][-1:])])[2:], sep="\n", flush=True)
    print(*table(HEADERS, [row(name, found) for name, found in runs.items()]), sep="\n")


if __name__ == "__main__":
    run_script("launch.pause", main)
