"""Whether a long run grows: memory, threads, open files and autograd contexts of every process.

    python -m launch.soak --iterations 5000

Trains two devices with N = 8 and samples each rank from inside, once a second: medians of memory and open
files, largest numbers of the rest. Exits with 1 if memory has grown by more than 2 % in the second half of
the run, or any of the rest beyond what it was before.
"""

import argparse
import csv
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from torch.distributed import autograd as dist_autograd

from launch.script import run_script
from pipar_rpc.__main__ import main as run_rank
from pipar_rpc.base.command import torchrun_here
from pipar_rpc.base.ranks import worker_name
from pipar_rpc.base.threads import repeating

NUM_RANKS = 3
STEADY = ("rss_mb", "files")  # one file more or less is open while a checkpoint is written
SAMPLES = 100  # of each device, 10 iterations an epoch
INTERVAL_S = 1.0
FIGURES = ("rss_mb", "threads", "files", "contexts")
FOLDER = "PIPAR_SOAK"
MOST_GROWTH = 0.02


def sample(path: Path) -> None:
    process = psutil.Process()
    try:
        contexts = dist_autograd._get_debug_info()["num_autograd_contexts"]  # type: ignore[attr-defined]
    except (RuntimeError, KeyError):  # before the group has come together
        return
    row = [process.memory_info().rss / 1e6, process.num_threads(), process.num_fds(), int(contexts)]
    with path.open("a", newline="") as file:
        csv.writer(file).writerow([time.time(), *row])


def rank() -> None:
    """One rank, under torchrun: pipar_rpc, watched."""
    path = Path(os.environ[FOLDER]) / f"{os.environ['RANK']}.csv"
    with repeating(INTERVAL_S, lambda: sample(path)):
        run_rank()


def run(folder: Path, iterations: int, overrides: list[str]) -> int:
    job = [
        *(
            "data=synthetic",
            "data.image_size=16",
            "data.train_size=400",
            "data.val_size=10",
            "data.test_size=10",
        ),
        *(f"data.train_size_per_device={SAMPLES}", "batch_size=10", f"epochs={iterations * 10 // SAMPLES}"),
        *("network=none", "pipeline.num_micro_batches=8", "aggregation.every=-1", "checkpoint.every=10"),
        f"hydra.run.dir={folder / 'run'}",
    ]
    environment = os.environ | {FOLDER: str(folder), "OMP_NUM_THREADS": "1"}
    command = [*torchrun_here(NUM_RANKS), "-m", "launch.soak", *job, *overrides]
    return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


def report(folder: Path) -> bool:
    """Prints a table; returns whether nothing has grown."""
    flat = True
    print(f"{'':8} {'figure':9} {'first half':>11} {'third quarter':>14} {'last quarter':>13} {'growth':>8}")
    for number in range(NUM_RANKS):
        with (folder / f"{number}.csv").open(newline="") as file:
            rows = [[float(cell) for cell in row[1:]] for row in csv.reader(file)]
        half, quarter = len(rows) // 2, len(rows) * 3 // 4
        for column, figure in enumerate(FIGURES):
            parts = [rows[:half], rows[half:quarter], rows[quarter:]]
            typical = statistics.median if figure in STEADY else max
            first, third, last = (typical([row[column] for row in part]) for part in parts)
            growth = (last - third) / max(third, 1.0)
            flat &= growth <= MOST_GROWTH if figure == "rss_mb" else last <= max(first, third)
            print(
                f"{worker_name(number):8} {figure:9} {first:11.1f} {third:14.1f} {last:13.1f} {growth:+8.2%}"
            )
    return flat


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=5000, help="of each device (default 5000)")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of pipar_rpc, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pipar-soak") as name:
        began, code = time.monotonic(), run(Path(name), args.iterations, args.overrides)
        if code:
            return code
        print(f"{args.iterations} iterations, {time.monotonic() - began:.0f} s")
        return 0 if report(Path(name)) else 1


if __name__ == "__main__":
    if "RANK" in os.environ:
        rank()
    run_script("launch.soak", main)
