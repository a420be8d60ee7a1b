"""Makes a page that compares strategies.

    python -m pipar_rpc.report outputs/compare/2026-01-01_12-00-00_multirun

Reads every results.csv below the folders and writes report.html, which holds everything, and its pictures as
PNG files into the first folder.
"""

import argparse
from pathlib import Path

from pipar_rpc.base.command import run_command
from pipar_rpc.base.errors import ConfigError
from pipar_rpc.results.epoch_times import with_times_of
from pipar_rpc.results.report_page import render
from pipar_rpc.results.report_sections import make_sections
from pipar_rpc.results.runs import load

AS_RUN = "Times to an accuracy are those of the epochs as they were run."


def main() -> None:
    """Reads the folders, writes the page and says where."""
    parser = argparse.ArgumentParser(prog="python -m pipar_rpc.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with results.csv somewhere below")
    parser.add_argument(
        "--iterations", type=int, help="iterations of an epoch (default: as many as were run)"
    )
    parser.add_argument(
        "--target",
        type=float,
        help="accuracy, 0..1, whose time is compared (default: the jobs' until.*, or what all runs reached)",
    )
    parser.add_argument(
        "--times",
        nargs="+",
        type=Path,
        help="folders with short runs of the same methods on a testbed, whose epoch times count instead",
    )
    args = parser.parse_args()
    if args.iterations is not None and args.iterations < 1:
        raise ConfigError("--iterations", args.iterations, ">= 1")
    if args.target is not None and not 0 < args.target <= 1:
        raise ConfigError("--target", args.target, "above 0 and at most 1")
    evaluated = load(args.folders)
    iterations = args.iterations or max(run.iterations for run in evaluated)
    runs = load(args.times) if args.times else evaluated
    if args.times:
        evaluated = with_times_of(evaluated, runs)
    folder: Path = args.folders[0]
    intro = (
        f"{len(runs)} runs. Times, idle times and rates are those of an epoch of {iterations} iterations: "
        "iterations take what the measured ones took, and models are moved and averaged once. "
        "In each case the fastest run of each strategy is compared. "
        + ("Losses and accuracies are those of other runs, over these times." if args.times else AS_RUN)
    )
    sections = make_sections(runs, iterations, folder, args.target, evaluated)
    folders = dict.fromkeys(run.folder for run in [*runs, *evaluated])
    (folder / "report.html").write_text(render(intro, sections, list(folders)))
    print(folder / "report.html")


if __name__ == "__main__":
    run_command(main)
