"""Memory and threads: what a device rank takes above `import torch`, and what each device costs rank 0.

    python -m launch.memory

Trains VGG5 on a few synthetic images (batches of 100, N = 10, P = 1) with K = 1 to 64 devices on up to four
ranks. Memory is the unique set size: what would be free if this process alone ended. A rank of devices reads
its own when network and data are about to be placed on it, and after each round; rank 0 five times a second,
of which those with the most threads count. It is compared with that of a process that has done `import torch`
alone, beside this one.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from functools import wraps
from pathlib import Path
from typing import Any

import psutil

from launch.script import run_script
from pipar_rpc.__main__ import main as run_rank
from pipar_rpc.base.command import torchrun_here
from pipar_rpc.base.threads import repeating
from pipar_rpc.coordination import build
from pipar_rpc.training.device_loop import Device

FOLDER = "PIPAR_MEMORY"
BEFORE, TRAINING, NOW = "before", "training", "now"
BARE = "import torch, psutil; print(psutil.Process().memory_full_info().uss)"
SAMPLES = 200  # of each device
JOB = (
    *("data=synthetic", "data.val_size=10", "data.test_size=10", "network=none", "batch_size=100"),
    *(f"data.train_size_per_device={SAMPLES}", "pipeline.num_micro_batches=10"),
)
COUNTS, WORKERS = (1, 2, 4, 16, 64), 4


def note(moment: str) -> None:
    """Adds the moment, unique set size in 10^6 bytes and number of threads to this rank's file."""
    process = psutil.Process()
    row = [moment, process.memory_full_info().uss / 1e6, process.num_threads()]
    with (Path(os.environ[FOLDER]) / f"{os.environ['RANK']}.csv").open("a", newline="") as file:
        csv.writer(file).writerow(row)


def server() -> None:
    """Rank 0, watched all the time."""
    with repeating(0.2, lambda: note(NOW)):
        run_rank()


def device() -> None:
    """A rank of devices, which tells of itself before it is given anything and after each round."""
    place, train = build.build_device, Device.train

    @wraps(place)
    def placed(*args: Any, **kwargs: Any) -> Device:
        note(BEFORE)
        return place(*args, **kwargs)

    @wraps(train)
    def trained(*args: Any, **kwargs: Any) -> Any:
        report = train(*args, **kwargs)
        note(TRAINING)
        return report

    build.build_device, Device.train = placed, trained  # type: ignore[method-assign]
    run_rank()


def run(folder: Path, num_devices: int) -> None:
    epochs = 10 if num_devices <= WORKERS else 3
    own = (f"num_devices={num_devices}", f"data.train_size={SAMPLES * num_devices}", f"epochs={epochs}")
    command = [
        *torchrun_here(1 + min(num_devices, WORKERS)),
        "-m",
        "launch.memory",
        *JOB,
        *own,
        f"hydra.run.dir={folder / 'run'}",
    ]
    environment = os.environ | {FOLDER: str(folder), "OMP_NUM_THREADS": "1"}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    subprocess.run(command, env=environment, check=True, **quiet)


def read(folder: Path, rank: int, moment: str) -> tuple[float, int]:
    """Median of the memory and largest number of threads of a moment, where there were so many; at first the
    first, before further devices come.
    """
    with (folder / f"{rank}.csv").open(newline="") as file:
        rows = [(float(memory), int(threads)) for name, memory, threads in csv.reader(file) if name == moment]
    rows = rows[:1] if moment == BEFORE else rows
    most = max(threads for _, threads in rows)
    return statistics.median(memory for memory, threads in rows if threads == most), most


def main() -> None:
    bare = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True)
    torch_mb = float(bare.stdout) / 1e6
    print(f"import torch: {torch_mb:.0f} MB; all memory below is above that")
    print(f"{'K':>2} {'devices, before network and data':>32} {'devices, training':>22} {'rank 0':>22}")
    for count in COUNTS:
        with tempfile.TemporaryDirectory(prefix="pipar-memory") as name:
            folder, workers = Path(name), range(1, 1 + min(count, WORKERS))
            run(folder, count)
            found = [max(read(folder, rank, moment) for rank in workers) for moment in (BEFORE, TRAINING)]
            found.append(read(folder, 0, NOW))
        cells = [f"{memory - torch_mb:.0f} MB, {threads} threads" for memory, threads in found]
        print(f"{count:2} {cells[0]:>32} {cells[1]:>22} {cells[2]:>22}", flush=True)


if __name__ == "__main__":
    if "RANK" in os.environ:
        server() if os.environ["RANK"] == "0" else device()
    else:
        run_script("launch.memory", main)
