"""Compares emulated links with links that the kernel shapes: the same jobs in both modes, side by side.

    python -m launch.agreement --devices 2 --networks 4g,wifi

Needs root, as launch.netns does. Runs `experiment=agreement`; the table goes to outputs/agreement/<time>/.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from launch.script import run_script
from pipar_rpc.base.errors import UserError
from pipar_rpc.results.runs import load
from pipar_rpc.results.terminal import table

Cell = tuple[str, int]  # model, N
# Emulated links carry payload alone. Headers and acknowledgements take 7 % of a link with packets of 1500
# bytes and 1 % with 9000: the second shows whether the emulation is right, the first what it leaves out.
MTUS = (9000, 1500)


def run(command: list[str], sweep_dir: Path, overrides: list[str]) -> dict[Cell, float]:
    """Runs the jobs and returns the seconds per iteration in the last epoch of each."""
    job = [*command, "experiment=agreement", f"hydra.sweep.dir={sweep_dir}", *overrides]
    subprocess.run([sys.executable, "-m", *job], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return {
        (run.text("model"), int(run.text("num_micro_batches"))): run.curve("iteration_time_s")[-1]
        for run in load([sweep_dir])
    }


def compare(network: str, devices: int, folder: Path, overrides: list[str]) -> list[list[str]]:
    job = ["pipar_rpc", f"num_devices={devices}", f"network={network}"]
    emulated = run(job, folder / f"emulated_{network}", overrides)
    kernel = []
    for mtu in MTUS:
        netns = ["launch.netns", f"--devices={devices}", f"--network={network}", f"--mtu={mtu}", "--"]
        kernel.append(run(netns, folder / f"kernel_{network}_mtu{mtu}", overrides))
    rows = []
    for cell, seconds in sorted(emulated.items(), key=lambda item: (item[0][0] != "vgg5", item[0])):
        shaped = [(own[cell], 100 * (own[cell] / seconds - 1)) for own in kernel]
        figures = [text for own, percent in shaped for text in (f"{own:.3f}", f"{percent:+.1f} %")]
        rows.append([network, cell[0], str(cell[1]), f"{seconds:.3f}", *figures])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=2, help="number of devices (default 2)")
    parser.add_argument("--networks", default="4g,wifi", help="presets of conf/network/ (default 4g,wifi)")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of experiment=agreement, after --")
    args = parser.parse_args()
    if os.geteuid() != 0:
        raise UserError("network namespaces need root")
    folder = Path("outputs", "agreement", time.strftime("%Y-%m-%d_%H-%M-%S")).absolute()
    rows = []
    for network in args.networks.split(","):
        rows += compare(network, args.devices, folder, args.overrides)
    kernel = [text for mtu in MTUS for text in (f"kernel, MTU {mtu}", "difference")]
    text = "\n".join(table(["network", "model", "N", "emulated", *kernel], rows))
    (folder / "agreement.txt").write_text(text + "\n")
    print(f"\nseconds per iteration\n{text}\n\n{folder / 'agreement.txt'}")


if __name__ == "__main__":
    run_script("launch.agreement", main)
