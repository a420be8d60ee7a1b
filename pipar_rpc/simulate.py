"""How long a training would take with many devices: python -m pipar_rpc.simulate [Hydra overrides]

Takes the configuration of a training, a single job or a sweep (--multirun), and the keys of `simulation.*`.
Nothing is trained, and torchrun is not needed: this machine only records what the network's units take,
unless files say so. Writes simulation.csv, with a row for each job, and a picture of each job into its
folder; a sweep over num_devices also gets a picture of epoch time against it. docs/simulation.md says what is
simulated.

Exit codes: 0 done, 1 a job failed, 2 the configuration or a file needs mending, 130 interrupted.
"""

import logging
import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from pipar_rpc import command_line, hydra_compose
from pipar_rpc.base.command import run_command
from pipar_rpc.base.errors import ConfigError, PeerError, UserError, first_line, require
from pipar_rpc.plan.load import node_of
from pipar_rpc.plan.node import prepare
from pipar_rpc.plan.simulation_plan import make_simulation_plan
from pipar_rpc.results.run_files import SIMULATION, SIMULATION_PICTURE, SIMULATION_SCALE
from pipar_rpc.results.simulation import SimulatedJob, as_table, write_csv
from pipar_rpc.results.simulation_figures import job_figure, scale_figure
from pipar_rpc.simulation.job import simulate

log = logging.getLogger("pipar_rpc")


class Simulations:
    """Simulates the jobs that Hydra composes, and remembers what each would take and how it ended."""

    def __init__(self) -> None:
        self._rows: dict[Path, SimulatedJob] = {}
        self._failed: dict[Path, Exception] = {}

    def run(self, raw: DictConfig, output_dir: Path, number: int) -> float | None:
        """Simulates one job; what is wrong with it is told at the end, so that it does not stop a sweep."""
        try:
            if output_dir in self._rows or output_dir in self._failed:
                taken, output_dir = output_dir, output_dir / f"job {number}"
                raise ConfigError("hydra.sweep.subdir", taken.name, "another folder for each job")
            self._rows[output_dir] = _simulate(raw, output_dir, number)
        except (UserError, PeerError) as error:
            self._failed[output_dir] = error
        return None

    def finish(self) -> int:
        """Shows the table, writes what is about all jobs, and returns the exit code."""
        rows = list(self._rows.values())
        if rows:
            print(*as_table(rows), sep="\n")
        if len(rows) + len(self._failed) > 1:
            root = Path(os.path.commonpath([*self._rows, *self._failed]))
            write_csv(rows, root / SIMULATION)
            print(root / SIMULATION)
            if len({row.num_devices for row in rows}) > 1:
                scale_figure(rows).savefig(root / SIMULATION_SCALE, dpi=110)
                print(root / SIMULATION_SCALE)
        else:
            print(
                *(folder / name for folder in self._rows for name in (SIMULATION, SIMULATION_PICTURE)),
                sep="\n",
            )
        for path, error in self._failed.items():
            named = f"{path.name}: " if len(rows) + len(self._failed) > 1 else ""
            print(f"pipar_rpc: error: {named}{first_line(error)}", file=sys.stderr)
        if not self._failed:
            return 0
        return 2 if all(isinstance(error, UserError) for error in self._failed.values()) else 1


def _simulate(raw: DictConfig, output_dir: Path, number: int) -> SimulatedJob:
    require(raw.objective is None, "objective", raw.objective, "null in a simulation")
    node = prepare(node_of(raw), None, 0)
    plan = make_simulation_plan(raw, node.data_root)
    for notice in {kind.job.speed.warning for kind in plan.kinds} - {None}:
        log.warning(notice)
    found = simulate(plan, node, number)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_csv([found.row], output_dir / SIMULATION)
    picture = job_figure(found.row, found.own_s, found.busy_s, found.cuts)
    picture.savefig(output_dir / SIMULATION_PICTURE, dpi=110)
    return found.row


def main() -> int:
    """Checks the first job, and has Hydra compose all of them."""
    sys.path.insert(0, "")  # the user's own modules
    sys.argv[1:] = arguments = hydra_compose.normalise(sys.argv[1:])
    if command_line.only_informs(arguments):
        hydra_compose.run_jobs(lambda raw, output_dir, number: None)
        return 0
    raw, multirun = hydra_compose.compose(arguments)
    if not multirun:  # before anything is written
        make_simulation_plan(raw, prepare(node_of(raw), None, 0).data_root)
    jobs = Simulations()
    hydra_compose.run_jobs(jobs.run)
    return jobs.finish()


if __name__ == "__main__":
    run_command(main)
