"""Makes a page that compares strategies: python -m launch.report outputs/compare/2026-01-01_12-00-00_multirun

Reads every results.csv below the folders and writes report.html, which holds everything, and its pictures as
PNG files into the first folder.
"""

import argparse
import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from launch.report_data import ORDER, Run, best, load, shown
from launch.report_figures import Cases, bars, curves, up_down_bars
from launch.script import run_script
from pipar_rpc.errors import ConfigError, UserError

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).parent
PUBLISHED = "published, other hardware"
MEASURED_BY_THE_PAPER = ("4g", "4g_plus", "wifi")
CASE = ("model", "network", "K", "testbed")


@dataclass
class Picture:
    name: str
    data: str


@dataclass
class Section:
    title: str
    note: str = ""
    headings: Sequence[str] = ()
    rows: list[list[str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    folded: bool = False


def picture(figure: Figure, name: str, folder: Path) -> Picture:
    """Writes the PNG and returns it for the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    (folder / f"{name}.png").write_bytes(buffer.getvalue())
    return Picture(name, base64.b64encode(buffer.getvalue()).decode())


def ratio(above: float, below: float) -> str:
    return f"{above / below:.2f}x" if below and math.isfinite(above / below) else ""


def time_section(cases: Cases, published: Mapping[str, Mapping[str, str]], iterations: int) -> Section:
    headings = [*CASE, "fl s", "sl s", "sfl s", "pipar s", "best sfl", "best pipar"]
    headings += ["fl / pipar", PUBLISHED, "sfl / pipar", PUBLISHED]
    section = Section("Training time per epoch", headings=headings)
    for case, runs in cases.items():
        seconds = {name: run.epoch_s(iterations) for name, run in runs.items()}
        row = [*case, *(shown(seconds.get(name, math.nan)) for name in ORDER)]
        row += [runs[name].label if name in runs else "" for name in ("sfl", "pipar")]
        for other in ("fl", "sfl"):
            compared = other in seconds and "pipar" in seconds
            row.append(ratio(seconds[other], seconds["pipar"]) if compared else "")
            known = published[f"speedup_over_{other}"] if case.network in MEASURED_BY_THE_PAPER else {}
            row.append(known.get(case.model, ""))
        section.rows.append(row)
    return section


def figures_section(cases: Cases, published: Mapping[str, str], iterations: int) -> Section:
    """Idle times and throughput, and how the strategies compare in them."""
    comparisons: dict[str, tuple[str, str, Callable[[Run], float]]] = {
        "server idle, fl / pipar": ("fl", "pipar", lambda run: run.idle_s("server", iterations)),
        "server idle, sfl / pipar": ("sfl", "pipar", lambda run: run.idle_s("server", iterations)),
        "device idle, sfl / pipar": ("sfl", "pipar", lambda run: run.idle_s("device", iterations)),
        "throughput, pipar / fl": ("pipar", "fl", lambda run: total_mbps(run, iterations)),
        "throughput, pipar / sfl": ("pipar", "sfl", lambda run: total_mbps(run, iterations)),
    }
    section = Section("Idle time and throughput", headings=[*CASE, *comparisons])
    for case, runs in cases.items():
        cells = [
            ratio(figure(runs[above]), figure(runs[below])) if above in runs and below in runs else ""
            for above, below, figure in comparisons.values()
        ]
        section.rows.append([*case, *cells])
    section.rows.append([PUBLISHED, "", "", "", *(published.get(title, "") for title in comparisons)])
    return section


def total_mbps(run: Run, iterations: int) -> float:
    return run.mbps("uplink", iterations) + run.mbps("downlink", iterations)


def runs_section(runs: Sequence[Run], iterations: int) -> Section:
    headings = [*CASE, "strategy", "iterations run", "iteration s", "epoch s"]
    headings += ["server idle s", "device idle s", "up Mbit/s", "down Mbit/s", "overlap", "efficiency"]
    section = Section("All runs", headings=headings, folded=True)
    for run in runs:
        figures = [run.median("iteration_time_s"), run.epoch_s(iterations)]
        figures += [run.idle_s(who, iterations) for who in ("server", "device")]
        figures += [run.mbps(link, iterations) for link in ("uplink", "downlink")]
        figures += [run.median("overlap"), run.median("efficiency")]
        iterations_run = str(run.iterations * len(run.rows))
        section.rows.append([*run.case, run.label, iterations_run, *map(shown, figures)])
    return section


def accuracy_section(runs: Sequence[Run], published: Mapping[str, Mapping[str, str]]) -> Section:
    headings = [*CASE, "strategy", "data", "epochs", "loss", "test %", f"CIFAR-10 %, {PUBLISHED}"]
    note = "The published accuracies were reached after 50 epochs, with other schedules."
    section = Section("What is learned", note=note, headings=headings)
    for run in runs:
        if not run.curve("test_accuracy"):
            continue
        accuracy = 100 * run.curve("test_accuracy")[-1]
        texts = [
            run.text("data"),
            str(len(run.rows)),
            f"{run.curve('train_loss')[-1]:.4f}",
            f"{accuracy:.2f}",
        ]
        known = published.get(run.text("model"), {}).get(run.strategy, "")
        section.rows.append([*run.case, run.label, *texts, str(known)])
    return section


def make_sections(runs: Sequence[Run], iterations: int, folder: Path) -> list[Section]:
    published = OmegaConf.to_container(OmegaConf.load(HERE / "published.yaml"))
    cases = best(runs, iterations)

    def idle(who: str) -> Callable[[Run], float]:
        return lambda run: run.idle_s(who, iterations)

    def mbps(link: str) -> Callable[[Run], float]:
        return lambda run: run.mbps(link, iterations)

    times = time_section(cases, published, iterations)
    figure = bars(cases, lambda run: run.epoch_s(iterations), "Training time per epoch", "seconds")
    times.pictures.append(picture(figure, "epoch_time", folder))
    figures = figures_section(cases, published["idle_and_throughput"], iterations)
    for title, name, up, down, labels in (
        ("Idle time per epoch, seconds", "idle", idle("server"), idle("device"), ("server", "device")),
        ("Throughput, Mbit/s", "throughput", mbps("uplink"), mbps("downlink"), ("uplink", "downlink")),
    ):
        figures.pictures.append(picture(up_down_bars(cases, up, down, title, labels), name, folder))
    learned = accuracy_section(runs, published["accuracy"])
    for column, title in (("train_loss", "Training loss"), ("test_accuracy", "Test accuracy")):
        for by_time in (False, True):
            if (curve := curves(runs, column, title, by_time)) is not None:
                learned.pictures.append(
                    picture(curve, f"{column}_by_{'time' if by_time else 'epoch'}", folder)
                )
    sections = [times, figures, learned, runs_section(runs, iterations), iterations_section(cases)]
    return [section for section in sections if section.rows or section.pictures]


def iterations_section(cases: Cases) -> Section:
    """What each compared run did in one iteration, as far as it was recorded."""
    note = (
        "Each run that is compared above, as its devices, links and server halves were busy in one iteration."
    )
    section = Section("Where the time goes", note=note, folded=True)
    for case, runs in cases.items():
        for run in runs.values():
            drawn = run.folder / "iteration.png"
            if drawn.is_file():
                name = f"{case.setting}, {case.network}: {run.label}"
                section.pictures.append(Picture(name, base64.b64encode(drawn.read_bytes()).decode()))
    return section


def template() -> "Template":
    try:
        from jinja2 import Environment, FileSystemLoader, select_autoescape
    except ModuleNotFoundError as error:
        raise UserError("jinja2 is missing: pip install '.[report]' in the checkout installs it") from error
    pages = Environment(loader=FileSystemLoader(HERE), autoescape=select_autoescape(default=True))
    return pages.get_template("report.html.j2")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launch.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with results.csv somewhere below")
    parser.add_argument(
        "--iterations", type=int, help="iterations of an epoch (default: as many as were run)"
    )
    args = parser.parse_args()
    if args.iterations is not None and args.iterations < 1:
        raise ConfigError("--iterations", args.iterations, ">= 1")
    page_template = template()
    runs = load(args.folders)
    iterations = args.iterations or max(run.iterations for run in runs)
    folder: Path = args.folders[0]
    intro = (
        f"{len(runs)} runs. Times, idle times and rates are those of an epoch of {iterations} iterations: "
        "iterations take what the measured ones took, and models are moved and averaged once. "
        "In each case the fastest run of each strategy is compared."
    )
    page = page_template.render(
        intro=intro, sections=make_sections(runs, iterations, folder), folders=[run.folder for run in runs]
    )
    (folder / "report.html").write_text(page)
    print(folder / "report.html")


if __name__ == "__main__":
    run_script("launch.report", main)
