"""How good the selector's choices are where devices or links are fast: VGG5, two devices on this machine.

    python -m launch.selector_scores slower_wifi

runs one of three settings: `slower_wifi`, devices five times slower than this machine over WiFi; `no_link`,
native devices without any link limit; `native_4g`, native devices over 4G. The grid of P and N
(experiment=selector_score) and the selector's choice (experiment=selector_choice) are run in turn, and
`python -m pipar_rpc.score` compares them. Nothing else may run on the machine: a disturbed profile is
refused. Overrides follow `--`; with `--small` a few short jobs show that it works.
"""

import argparse
import sys
import time
from pathlib import Path

from launch.script import run_script, single_threaded
from pipar_rpc.base.errors import ConfigError

NUM_DEVICES, SLOWDOWN, REPEATS = 2, 5, 3
SETTINGS = {"slower_wifi": "wifi", "no_link": "none", "native_4g": "4g"}
# Epochs long enough that the first iteration, which starts threads, does not count for much.
JOB = ("model=vgg5", "testbed=native", "data.train_size_per_device=1000", "epochs=3")
GRID = ("pipeline.split_point=1,2,3,4", "pipeline.num_micro_batches=1,2,3,5,8,12,20,33,50,83,100")
ALONE = ("pipeline.split_point=5", "pipeline.num_micro_batches=1")  # where N does not matter
SMALL_JOB = ("data.image_size=8", "data.train_size_per_device=20", "epochs=1", "batch_size=10")
SMALL_GRID = ("pipeline.split_point=1", "pipeline.num_micro_batches=1,5")


def python(*arguments: str) -> None:
    """Runs a module, one thread for each process."""
    single_threaded(sys.executable, "-m", *arguments)


def sweep(experiment: str, folder: Path, *overrides: str) -> None:
    """Runs the jobs of an experiment inside one torchrun."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={1 + NUM_DEVICES}"]
    jobs = ["-m", "pipar_rpc", "--multirun", f"experiment={experiment}", f"hydra.sweep.dir={folder}"]
    python(*torchrun, *jobs, *overrides)


def record(folder: Path, small: bool) -> str:
    """Records this machine, slower: the same device in all runs; returns the override that replays it."""
    path = folder / f"slower_{SLOWDOWN}.yaml"
    options = ["--image-size=8", "--accept-disturbed"] if small else ["--image-size=32", "--runs=9"]
    python("pipar_rpc.profiler", "vgg5", *options, f"--slowdown={SLOWDOWN}", f"--output={path}")
    return f"testbed.profile={path}"


def main() -> None:
    """Runs grid and choice in turn, and compares them."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.selector_scores", description=__doc__.splitlines()[0]
    )
    parser.add_argument("setting", choices=SETTINGS, help="devices and links")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"of everything (default {REPEATS})")
    parser.add_argument("--small", action="store_true", help="a few short jobs, to see that it works")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of all jobs, after --")
    args = parser.parse_intermixed_args()  # options may stand between the setting and the overrides
    if args.repeats < 1:
        raise ConfigError("--repeats", args.repeats, ">= 1")
    folder = Path("outputs", "selector_scores", f"{args.setting}_{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    folder = folder.absolute()
    folder.mkdir(parents=True)
    job = [*JOB, f"network={SETTINGS[args.setting]}", *(SMALL_JOB if args.small else ())]
    if args.setting == "slower_wifi":
        job.append(record(folder, args.small))
    job += args.overrides
    for repeat in range(1, args.repeats + 1):
        sweep("selector_choice", folder / f"choice_{repeat}", *job)
        sweep("selector_score", folder / f"grid_{repeat}", *job, *(SMALL_GRID if args.small else GRID))
        sweep("selector_score", folder / f"alone_{repeat}", *job, *ALONE)
    python("pipar_rpc.score", str(folder), "--iterations=10")


if __name__ == "__main__":
    run_script("launch.selector_scores", main)
