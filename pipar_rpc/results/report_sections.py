"""The sections of a report: tables and pictures that compare strategies, beside the published figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipar_rpc.results.columns import COLUMNS
from pipar_rpc.results.published import Published, read_published
from pipar_rpc.results.report_accuracy import accuracy_figure, time_to_accuracy_section
from pipar_rpc.results.report_figures import Cases, bars, curves, up_down_bars
from pipar_rpc.results.report_page import Section, existing_picture, picture
from pipar_rpc.results.runs import ORDER, Run, best, shown
from pipar_rpc.results.time_to_accuracy import compare

PUBLISHED = "published, other hardware"
MEASURED_BY_THE_PAPER = ("4g", "4g_plus", "wifi")
CASE = ("model", "network", "K", "testbed", "codecs", "privacy")


def ratio(above: float, below: float) -> str:
    """Says how many times `below` fits into `above`; nothing where that is not known."""
    return f"{above / below:.2f}x" if below and math.isfinite(above / below) else ""


def time_section(cases: Cases, known: Published, iterations: int) -> Section:
    """Makes the section with epoch times, and how many times as long as PiPar the others take."""
    headings = [*CASE, "fl s", "sl s", "sfl s", "pipar s", "best sfl", "best pipar"]
    headings += ["fl / pipar", PUBLISHED, "sfl / pipar", PUBLISHED]
    section = Section("Training time per epoch", headings=headings)
    for case, runs in cases.items():
        seconds = {name: run.epoch_s(iterations) for name, run in runs.items()}
        row = [*case, *(shown(seconds.get(name, math.nan)) for name in ORDER)]
        row += [runs[name].label if name in runs else "" for name in ("sfl", "pipar")]
        for other, speedup in (("fl", known.speedup_over_fl), ("sfl", known.speedup_over_sfl)):
            compared = other in seconds and "pipar" in seconds
            row.append(ratio(seconds[other], seconds["pipar"]) if compared else "")
            row.append(speedup.get(case.model, "") if case.network in MEASURED_BY_THE_PAPER else "")
        section.rows.append(row)
    return section


def figures_section(cases: Cases, known: Mapping[str, str], iterations: int) -> Section:
    """Makes the section with idle times and throughput, and how the strategies compare in them."""
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
    section.rows.append(
        [PUBLISHED, *[""] * (len(CASE) - 1), *(known.get(title, "") for title in comparisons)]
    )
    return section


def total_mbps(run: Run, iterations: int) -> float:
    """Returns the Mbit/s of both links, all devices together."""
    return run.mbps("uplink", iterations) + run.mbps("downlink", iterations)


def runs_section(runs: Sequence[Run], iterations: int) -> Section:
    """Makes the section with the figures of every run, compared or not."""
    others = ("server_idle_s", "device_idle_s", "uplink_mbps", "downlink_mbps", "overlap", "efficiency")
    headings = [*CASE, "strategy", "iterations run", COLUMNS["iteration_time_s"].heading, "epoch s"]
    headings += [COLUMNS[name].heading for name in others]
    section = Section("All runs", headings=headings, folded=True)
    for run in runs:
        figures = [run.median("iteration_time_s"), run.epoch_s(iterations)]
        figures += [run.idle_s(who, iterations) for who in ("server", "device")]
        figures += [run.mbps(link, iterations) for link in ("uplink", "downlink")]
        figures += [run.median("overlap"), run.median("efficiency")]
        iterations_run = str(run.iterations * len(run.rows))
        section.rows.append([*run.case, run.label, iterations_run, *map(shown, figures)])
    return section


def accuracy_section(runs: Sequence[Run], known: Mapping[str, Mapping[str, str | float]]) -> Section:
    """Makes the section with loss and accuracy after the last epoch."""
    headings = [*CASE, "strategy", "data", "epochs", COLUMNS["train_loss"].heading, "test %"]
    headings.append(f"CIFAR-10 %, {PUBLISHED}")
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
        percent = known.get(run.text("model"), {}).get(run.strategy, "")
        section.rows.append([*run.case, run.label, *texts, str(percent)])
    return section


def make_sections(
    runs: Sequence[Run],
    iterations: int,
    folder: Path,
    target: float | None = None,
    evaluated: Sequence[Run] | None = None,
) -> list[Section]:
    """Makes all sections that have something in them; writes their pictures into the folder.

    Args:
        runs: runs, as `load` returns them.
        iterations: number of iterations of an epoch.
        folder: folder of the PNG files.
        target: accuracy whose time is compared, 0..1; None for that of `time_to_accuracy.compare`.
        evaluated: runs whose losses and accuracies are shown; by default the same.
    """
    known, evaluated = read_published(), runs if evaluated is None else evaluated
    cases = best(runs, iterations)

    def idle(who: str) -> Callable[[Run], float]:
        return lambda run: run.idle_s(who, iterations)

    def mbps(link: str) -> Callable[[Run], float]:
        return lambda run: run.mbps(link, iterations)

    times = time_section(cases, known, iterations)
    figure = bars(cases, lambda run: run.epoch_s(iterations), "Training time per epoch", "seconds")
    times.pictures.append(picture(figure, "epoch_time", folder))
    figures = figures_section(cases, known.idle_and_throughput, iterations)
    for title, name, up, down, labels in (
        ("Idle time per epoch, seconds", "idle", idle("server"), idle("device"), ("server", "device")),
        ("Throughput, Mbit/s", "throughput", mbps("uplink"), mbps("downlink"), ("uplink", "downlink")),
    ):
        figures.pictures.append(picture(up_down_bars(cases, up, down, title, labels), name, folder))
    learned = accuracy_section(evaluated, known.accuracy)
    for column, title, by in (
        ("train_loss", "Training loss", "epoch"),
        ("train_loss", "Training loss", "time"),
        ("test_accuracy", "Test accuracy", "epoch"),  # over time it has a section of its own
    ):
        if (curve := curves(evaluated, column, title, by_time=by == "time")) is not None:
            learned.pictures.append(picture(curve, f"{column}_by_{by}", folder))
    comparisons = compare(evaluated, target)
    soon = time_to_accuracy_section(comparisons)
    if comparisons:
        soon.pictures.append(picture(accuracy_figure(comparisons), "accuracy_by_time", folder))
    sections = [times, figures, learned, soon, runs_section(runs, iterations), iterations_section(cases)]
    return [section for section in sections if section.rows or section.pictures]


def iterations_section(cases: Cases) -> Section:
    """Makes the section that shows one iteration of each compared run, as far as it was recorded."""
    note = (
        "Each run that is compared above, as its devices, links and server halves were busy in one iteration."
    )
    section = Section("Where the time goes", note=note, folded=True)
    for case, runs in cases.items():
        for run in runs.values():
            drawn = run.folder / "iteration.png"
            if drawn.is_file():
                name = f"{case.setting}, {case.network}: {run.label}"
                section.pictures.append(existing_picture(drawn, name))
    return section
