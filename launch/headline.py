"""Makes the headline figures of experiment=headline: tables and pictures.

    python -m launch.headline headline --boards inferred_vgg5.yaml inferred_resnet18.yaml

Reads every run below the folders. Where FL, SFL and PiPar were run, an iteration takes what they took. For
the other links, and all networks whose unit times a run with the selector measured, the stage recurrence
computes it. The same is computed for every run, to show how far that is from the truth: where a run of a
network with so many devices is off by more than 5 %, its computed figures are called not valid, and the
command ends with 1. The server is as fast as `testbed.time_scale` of the runs made it. With --boards, which
are profiles of launch.infer, also the paper's Table IV: P and N by the paper's formula and by this selector.
Writes headline.md, headline.csv and headline_*.png into the first folder.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from launch.headline_cases import Reckoner, Runs
from launch.headline_figures import bars
from launch.headline_tables import (
    NOT_VALID,
    Choice,
    agreement_table,
    choice_table,
    largest_lines,
    speed_table,
    times_faster,
    times_less_idle,
    verdict,
    write_csv,
)
from launch.headline_values import ITERATIONS, Case
from launch.script import run_script
from pipar_rpc.base.errors import ConfigError
from pipar_rpc.models import build_meta, summarise
from pipar_rpc.plan.strategies import Method
from pipar_rpc.results.published import Published, read_published
from pipar_rpc.results.runs import Run, load
from pipar_rpc.selector.facts import Facts
from pipar_rpc.testbed.device_profile import DeviceProfile, read_profile

NOTE = (
    f"Seconds of an iteration; ratios are those of epochs of {ITERATIONS} iterations and one aggregation, "
    "for which models travel as long as their bytes take."
)


def choices(runs: Runs, own: Sequence[Run], path: Path, known: Published) -> list[Choice]:
    """Computes the rows of Table IV for the board in a file, and finds those that were run on it.

    Args:
        runs: runs with what was measured of the server.
        own: runs on that board.
        path: file of `launch.infer`.
        known: published figures.
    """
    profile: DeviceProfile = read_profile(path)
    facts, published = runs.facts(profile.model), known.table_iv.get(profile.model)
    if published is None or facts is None or not _is_of(profile, facts):
        those = f"a profile of {' or '.join(known.table_iv)}, images as in a run with the selector"
        raise ConfigError("--boards", path, f"{those}; it is of {profile.model}")
    board = replace(facts, devices=[replace(device, units=profile.units) for device in facts.devices])
    found = []
    for network, row in published.items():
        if network not in runs.links:
            continue
        reckoner = Reckoner(board, runs.links[network])
        ran = {
            str(run.settings["selector"]["method"]): ITERATIONS * run.median("iteration_time_s")
            + reckoner.figures(int(run.text("split_point")), int(run.text("num_micro_batches"))).models_s
            for run in own
            if (run.case.model, run.case.network) == (profile.model, network)
            and int(run.case.num_devices) == len(facts.devices)
        }
        paper, selected = reckoner.selected(Method.paper), reckoner.selected()
        found.append(Choice(profile.model, network, paper, selected, ran, row))
    return found


def _is_of(profile: DeviceProfile, facts: Facts) -> bool:
    """Whether a profile is of the network, with as large images, of which the facts are."""
    units = summarise(build_meta(profile.spec), profile.spec)
    return [own.activation_bytes for own in units] == [own.activation_bytes for own in facts.sizes]


def draw(cases: Sequence[Case], known: Published, folder: Path) -> list[Path]:
    """Draws the pictures; returns where they are."""
    figures: dict[str, tuple[str, Callable[[Case], float], float | None]] = {
        "speedup_over_fl": (
            "FL / PiPar, time of an epoch",
            lambda case: times_faster(case, "fl"),
            known.largest["speedup_over_fl"],
        ),
        "speedup_over_sfl": (
            "SFL with its best split point / PiPar, time of an epoch",
            lambda case: times_faster(case, "sfl"),
            None,
        ),
        "server_idle": (
            "FL / PiPar, idle time of the server",
            lambda case: times_less_idle(case, "fl"),
            known.largest["server_idle_over_fl"],
        ),
    }
    paths = []
    for name, (title, value, largest) in figures.items():
        paths.append(folder / f"headline_{name}.png")
        bars(cases, value, title, largest).savefig(paths[-1], dpi=110)
    return paths


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.headline", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders with runs of experiment=headline")
    parser.add_argument("--boards", nargs="+", type=Path, default=[], help="profiles of launch.infer")
    args = parser.parse_args()
    names = {path.stem: path for path in args.boards}
    loaded, known, folder = load(args.folders), read_published(), args.folders[0]
    runs = Runs([run for run in loaded if run.case.testbed not in names])
    cases, checks = runs.cases(), runs.checks()
    said = verdict(checks)
    parts = [NOTE, said, speed_table(cases).markdown(), "\n".join(largest_lines(cases, known.largest))]
    parts.append(agreement_table(checks).markdown())
    parts += [
        f"{model}, K = {count}, {network}: SFL ran with P = {ran}, but P = {best} is computed to be better"
        for (model, count, network), best, ran in runs.better_splits()
    ]
    if args.boards:
        rows = [
            row
            for name, path in names.items()
            for row in choices(runs, [run for run in loaded if run.case.testbed == name], path, known)
        ]
        parts.append(f"Table IV, seconds of an epoch:\n\n{choice_table(rows).markdown()}")
    (folder / "headline.md").write_text("\n\n".join(parts) + "\n")
    write_csv(folder / "headline.csv", cases)
    pictures = draw(cases, known, folder)
    print("\n\n".join(parts), "", folder / "headline.md", folder / "headline.csv", *pictures, sep="\n")
    return int(said.startswith(NOT_VALID))


if __name__ == "__main__":
    run_script("launch.headline", main)
