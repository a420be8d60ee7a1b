"""A GPU beside the CPU: whether both train the same, how fast server halves are there, what memory they take.

    python -m launch.gpu

For each network and K. The same: real jobs with K devices in double precision, once on the CPU and once on
the GPU, where every rank computes on it; the trained networks may differ by 1e-7 of the largest weight.
Speed: K server halves, each with a thread and a stream, train on activations in the host's memory and bring
gradients and losses back, beside one plain loop on the GPU that does the same for one half after the other
and waits for each result; medians of alternating runs in single precision. Memory: the most that torch has
allocated and reserved on the GPU for the halves, for each of them. Ends with 1 if a network differs by more,
and with 2 where there is no GPU.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from launch.gpu_halves import Compared, compare
from launch.script import run_script
from pipar_rpc.__main__ import main as run_rank
from pipar_rpc.base.command import torchrun_here
from pipar_rpc.base.errors import UserError, require
from pipar_rpc.base.gpu import make_repeatable
from pipar_rpc.base.states import State
from pipar_rpc.results.terminal import table

NETWORKS, COUNTS = ("vgg5", "resnet18", "mobilenet_small"), (1, 4)
TOLERANCE = 1e-7  # of the largest weight, in double precision
PATIENCE_S = 240.0  # for the jobs of all networks, on one device
JOB = (
    *("data=synthetic", "data.image_size=32", "data.train_size_per_device=32", "data.val_size=10"),
    *("data.test_size=10", "enable_val=false", "enable_test=false", "network=none", "epochs=2"),
    *("batch_size=16", "pipeline.split_point=1", "pipeline.num_micro_batches=4", "optimizer.lr=0.01"),
)
HEADERS = (
    *("network", "K", "GPU - CPU", "halves - plain", "plain ms", "halves ms", "speed-up"),
    *("allocated MB", "reserved MB"),
)


def trained(folder: Path, networks: list[str], count: int, device: str) -> list[State]:
    """The networks that K devices train, every rank on `device`."""
    sweep = [f"model={','.join(networks)}", f"node.device={device}", f"hydra.sweep.dir={folder}"]
    job = [*JOB, f"data.train_size={32 * count}", "--multirun", *sweep]
    command = [*torchrun_here(1 + count), "-m", "launch.gpu", *job]
    try:
        subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired as error:
        sys.exit(f"launch.gpu: error: waited for {count} devices on {device} for {error.timeout:g} s")
    folders = [next(folder.glob(f"{number}_*")) for number in range(len(networks))]
    return [torch.load(own / "model.pt", weights_only=True) for own in folders]


def difference(one: State, other: State) -> float:
    """The largest difference of two networks, as a part of the largest weight; NaN if there is a NaN."""
    scale = max(float(own.double().abs().max()) for own in one.values())
    both = torch.stack([(one[name].double() - other[name].double()).abs().max() for name in one])
    return float(both.max()) / scale  # torch's maximum is NaN if any is


def row(network: str, count: int, apart: float, found: Compared) -> list[str]:
    own = max(difference(*both) for both in zip(found.plain, found.halves, strict=True))
    times = [f"{1000 * seconds:.2f}" for seconds in (found.plain_s, found.halves_s)]
    memory = [f"{1e-6 * size / count:.1f}" for size in (found.allocated, found.reserved)]
    faster = f"{found.plain_s / found.halves_s:.2f}"
    return [network, str(count), f"{apart:.1e}", f"{own:.1e}", *times, faster, *memory]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help=f"(default {NETWORKS})")
    parser.add_argument("--devices", type=int, nargs="+", default=list(COUNTS), help="K (default 1 4)")
    parser.add_argument("--micro-batches", type=int, default=10, help="N, for speed (default 10)")
    parser.add_argument("--batch-size", type=int, default=100, help="for speed (default 100)")
    parser.add_argument("--iterations", type=int, default=10, help="of each timed run (default 10)")
    parser.add_argument("--device", default="cuda:0", help="the GPU; cpu tries the script out")
    return parser.parse_args()


def main() -> int:
    args = parse()
    device = torch.device(args.device)
    if device.type == "cuda":
        if not torch.cuda.device_count():
            raise UserError("there is no GPU here that torch can use")
        require((device.index or 0) < torch.cuda.device_count(), "--device", device, "a GPU of this machine")
        make_repeatable()
        print(f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}", flush=True)
    rows, worst, places = [], 0.0, ("cpu", args.device)
    for count in args.devices:
        with tempfile.TemporaryDirectory(prefix="pipar-gpu") as name:
            there = [trained(Path(name, str(n)), args.networks, count, own) for n, own in enumerate(places)]
        for network, *both in zip(args.networks, *there, strict=True):
            apart = difference(*both)
            worst = math.inf if math.isnan(apart) else max(worst, apart)
            found = compare(network, count, args.batch_size, args.micro_batches, args.iterations, device)
            rows.append(row(network, count, apart, found))
            print(*table(HEADERS, rows[-1:]), sep="\n", flush=True)
    print(*table(HEADERS, rows), sep="\n")
    print(f"largest difference between GPU and CPU: {worst:.1e}, allowed {TOLERANCE:g}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    if "RANK" in os.environ:
        torch.set_default_dtype(torch.float64)
        run_rank()
    else:
        run_script("launch.gpu", main)
