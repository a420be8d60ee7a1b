"""Simulated beside measured iterations: the same jobs run by torchrun on this machine and simulated.

    python -m launch.simulation_check --devices 4

Records this machine, slowed down to a Raspberry Pi's speed, so that all devices are the same ones in both,
and runs SFL, PiPar and PiPar with one merged server half with VGG5 over emulated 4G. Many devices get a time
scale at which their real work fits this machine's cores. With `--ranks`, so many ranks hold all devices of a
job. Nothing else may run on the machine. Ends with 1 if an iteration is off by more than 5 %. Overrides of
both follow `--`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

from launch.script import run_script, single_threaded
from pipar_rpc import hydra_compose
from pipar_rpc.base.command import torchrun_here
from pipar_rpc.base.errors import ConfigError
from pipar_rpc.plan.load import node_of
from pipar_rpc.plan.node import prepare
from pipar_rpc.plan.simulation_plan import make_simulation_plan
from pipar_rpc.results.runs import load
from pipar_rpc.results.terminal import table
from pipar_rpc.simulation.job import simulate

LARGEST_DEVIATION, SLOWDOWN = 0.05, 24
AT_FULL_SPEED = 8  # devices whose real work fits the cores; more are emulated slower than in real time
ITERATIONS, EPOCHS = 5, 2  # of which the last counts
METHODS = {
    "sfl": ("strategy=sfl",),
    "pipar N=4": ("strategy=pipar", "pipeline.num_micro_batches=4"),
    "pipar N=10": ("strategy=pipar", "pipeline.num_micro_batches=10"),
    "merged N=4": ("strategy=pipar", "pipeline.num_micro_batches=4", "server.half=merged"),
}
JOB = (
    *("model=vgg5", "data=synthetic", "data.val_size=10", "data.test_size=10", "network=4g"),
    *("batch_size=100", "pipeline.split_point=1"),
    *("enable_val=false", "enable_test=false", "checkpoint.every=0"),
    *(f"data.train_size_per_device={100 * ITERATIONS}", f"epochs={EPOCHS}", "simulation.scan=false"),
)


class Check(NamedTuple):
    """A job: emulated seconds of an iteration, as it was run and as it was simulated."""

    num_devices: int
    method: str
    time_scale: float
    measured_s: float
    simulated_s: float

    @property
    def deviation(self) -> float:
        """By which share the simulated iteration is longer; negative if it is shorter."""
        return self.simulated_s / self.measured_s - 1


def measured(folder: Path, ranks: int, overrides: list[str]) -> float:
    """Runs a job; returns the seconds of an iteration in its last epoch."""
    command = [*torchrun_here(1 + ranks), "-m", "pipar_rpc", f"hydra.run.dir={folder}", *overrides]
    single_threaded(*command)
    (run,) = load([folder])
    return run.curve("iteration_time_s")[-1]


def simulated(overrides: list[str]) -> tuple[float, float]:
    """Simulates a job; returns its time scale and the seconds of an iteration."""
    raw, _ = hydra_compose.compose(overrides)
    node = prepare(node_of(raw), None, 0)
    plan = make_simulation_plan(raw, node.data_root)
    return plan.settings.time_scale, simulate(plan, node).row.iteration_time_s


def check(folder: Path, count: int, method: str, ranks: int | None, more: list[str]) -> Check:
    """Runs and simulates a job."""
    scale = min(1.0, AT_FULL_SPEED / count)
    sizes = [f"num_devices={count}", f"data.train_size={100 * ITERATIONS * count}"]
    overrides = [*JOB, *METHODS[method], *sizes, f"testbed.time_scale={scale}"]
    overrides += [f"testbed.profile={folder / 'device.yaml'}", *more]
    name = f"{count}_{method.replace(' ', '_').replace('=', '')}"
    seconds = measured(folder / name, min(count, ranks or count), overrides)
    scale, computed = simulated(overrides)
    return Check(count, method, scale, seconds, computed)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.simulation_check", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[4], help="K (default 4)")
    parser.add_argument("--ranks", type=int, help="ranks that hold the devices (default: one for each)")
    parser.add_argument("--accept-disturbed", action="store_true", help="though other work may run here")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of both, after --")
    args = parser.parse_args()
    if args.ranks is not None and args.ranks < 1:
        raise ConfigError("--ranks", args.ranks, ">= 1")
    folder = Path("outputs", "simulation_check", time.strftime("%Y-%m-%d_%H-%M-%S")).absolute()
    folder.mkdir(parents=True)
    options = [f"--slowdown={SLOWDOWN}", "--image-size=32", "--runs=9", f"--output={folder / 'device.yaml'}"]
    options += ["--accept-disturbed"] * args.accept_disturbed
    single_threaded(sys.executable, "-m", "pipar_rpc.profiler", "vgg5", *options)
    found = []
    for count in args.devices:
        for method in METHODS:
            found.append(check(folder, count, method, args.ranks, args.overrides))
            print(found[-1], flush=True)
    cells = [
        [
            *(str(own.num_devices), own.method, f"{own.time_scale:g}"),
            *(f"{own.measured_s:.3f}", f"{own.simulated_s:.3f}", f"{own.deviation:+.1%}"),
        ]
        for own in found
    ]
    headings = ["K", "method", "time scale", "measured s", "simulated s", "deviation"]
    text = "\n".join(table(headings, cells))
    (folder / "simulation_check.txt").write_text(f"{text}\n")
    print("seconds of an iteration", text, folder / "simulation_check.txt", sep="\n")
    return int(max(abs(own.deviation) for own in found) > LARGEST_DEVIATION)


if __name__ == "__main__":
    run_script("launch.simulation_check", main)
