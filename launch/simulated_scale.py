"""Epoch time over the number of devices, simulated: FL, SFL, PiPar and PiPar with merged server halves.

    python -m launch.simulated_scale

VGG5 on emulated Raspberry Pis 3B over 4G that differ by 30 %, five mini-batches each, with 1 to 8 server
processes. Everything else is `python -m pipar_rpc.simulate`; overrides follow `--`. Writes simulation.csv and
simulation_scale.png into outputs/simulated_scale/<time>/.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.script import run_script
from pipar_rpc import hydra_compose
from pipar_rpc.plan.load import node_of
from pipar_rpc.plan.node import prepare
from pipar_rpc.plan.simulation_plan import make_simulation_plan
from pipar_rpc.results.run_files import SIMULATION, SIMULATION_SCALE
from pipar_rpc.results.simulation import SimulatedJob, as_table, write_csv
from pipar_rpc.results.simulation_figures import scale_figure
from pipar_rpc.simulation.job import simulate

DEVICES, SERVERS = (4, 16, 64, 256, 1000, 4000, 16_000, 100_000), (1, 2, 4, 8)
METHODS = {
    "fl": ("strategy=fl",),
    "sfl": ("strategy=sfl",),
    "pipar": ("strategy=pipar",),
    "merged": ("strategy=pipar", "simulation.server_half=merged"),
}
JOB = (
    *("model=vgg5", "data=synthetic", "data.train_size_per_device=500", "epochs=1", "network=4g"),
    *("testbed=raspberry_pi_3b", "simulation.scan=false", "simulation.slowdown=[lognormal,0.3]"),
    *("simulation.uplink=[lognormal,0.3]", "simulation.downlink=[lognormal,0.3]"),
)


def job(*overrides: str) -> SimulatedJob:
    """Simulates one job; what is recorded for it counts for all."""
    raw, _ = hydra_compose.compose([*JOB, *overrides])
    node = prepare(node_of(raw), None, 0)
    return simulate(make_simulation_plan(raw, node.data_root), node).row


def jobs(devices: Sequence[int], servers: Sequence[int], overrides: Sequence[str]) -> Iterator[SimulatedJob]:
    """Simulates all jobs; federated learning needs no servers."""
    for method, options in METHODS.items():
        for number in servers if method != "fl" else servers[:1]:
            for count in devices:
                if number <= count:
                    sizes = f"num_devices={count}", f"num_servers={number}"
                    yield job(*options, *sizes, *overrides)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m launch.simulated_scale", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES, help="K (default 4 to 100,000)")
    parser.add_argument("--servers", type=int, nargs="+", default=SERVERS, help="default 1 2 4 8")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of pipar_rpc.simulate, after --")
    args = parser.parse_args()
    folder = Path("outputs", "simulated_scale", time.strftime("%Y-%m-%d_%H-%M-%S"))
    rows = list[SimulatedJob]()
    for row in jobs(args.devices, args.servers, args.overrides):
        rows.append(row._replace(job=len(rows)))
        epoch = f"{row.method}, K = {row.num_devices}: {row.epoch_time_s:.1f} s"
        print(f"{epoch}, simulated in {row.computed_in_s:.1f} s", flush=True)
    folder.mkdir(parents=True)
    write_csv(rows, folder / SIMULATION)
    scale_figure(rows).savefig(folder / SIMULATION_SCALE, dpi=110)
    print(*as_table(rows), folder / SIMULATION, folder / SIMULATION_SCALE, sep="\n")


if __name__ == "__main__":
    run_script("launch.simulated_scale", main)
