"""The section of a report that compares how soon methods reach an accuracy: a table and a picture."""

import math
from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipar_rpc.results.columns import COLUMNS
from pipar_rpc.results.report_figures import COLOURS, PANELS_IN_A_ROW, WIDTH
from pipar_rpc.results.report_page import Section
from pipar_rpc.results.runs import shown
from pipar_rpc.results.time_to_accuracy import Comparison, Method, Spread

NOT_REACHED = "not reached"
DASHES = ("-", "--", ":", "-.")  # tell methods of one strategy apart
PROBLEM = ("model", "network", "K", "testbed", "data", "partition")


def mean_and_deviation(figures: Spread) -> str:
    """Formats a mean with its standard deviation, where there is one; nothing for NaN."""
    mean = shown(figures.mean)
    return mean if math.isnan(figures.deviation) else f"{mean} ± {shown(figures.deviation)}"


def time_to_accuracy_section(comparisons: Sequence[Comparison]) -> Section:
    """Makes the section with the time until the target accuracy, a row for each method."""
    headings = [*PROBLEM, "method", "accuracy", "target", "reached by", "epoch", "time s", "speed-up", "over"]
    note = (
        "Time is the sum of the epochs' times, until the end of the first epoch that has the "
        "target: mean and standard deviation over the runs of a method that reach it. Runs of one method "
        "differ in nothing but the seed. The speed-up is that over fl, or over the slowest method where not "
        "all runs of fl reach the target. In the picture, thin lines are single runs, and the mean and its "
        "band end with the shortest run."
    )
    section = Section("Time to accuracy", note=note, headings=headings)
    for comparison in comparisons:
        section.rows += [_row(comparison, method) for method in comparison.methods]
    return section


def _row(comparison: Comparison, method: Method) -> list[str]:
    reached = method.reached(comparison.column, comparison.target)
    reference = comparison.reference
    epochs = shown(Spread.of([float(each.epoch) for each in reached]).mean)
    time = mean_and_deviation(comparison.seconds(method)) if reached else NOT_REACHED
    row = [*comparison.problem, method.label, COLUMNS[comparison.column].heading, f"{comparison.target:.4g}"]
    row += [f"{len(reached)} of {len(method.runs)}", epochs, time]
    if reference is None or not comparison.is_complete(method):
        return [*row, "", ""]
    factor = comparison.seconds(reference).mean / comparison.seconds(method).mean
    return [*row, f"{factor:.2f}x", reference.label]


def accuracy_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Draws accuracy over time: a panel for each comparison, a line for each method, a band for its runs."""
    columns = min(PANELS_IN_A_ROW, len(comparisons))
    rows = -(-len(comparisons) // columns)
    figure = Figure(figsize=(WIDTH * columns / PANELS_IN_A_ROW, 4.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(comparisons) :]:
        axes.remove()
    for axes, comparison in zip(panels, comparisons, strict=False):
        _draw(axes, comparison)
    return figure


def _draw(axes: Axes, comparison: Comparison) -> None:
    problem, count = comparison.problem, Counter[str]()
    for method in comparison.methods:
        dashes = DASHES[count[method.strategy] % len(DASHES)]
        count[method.strategy] += 1
        _draw_method(axes, comparison.column, method, dashes)
    label = f"target {comparison.target:.4g}"
    axes.axhline(comparison.target, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)), label=label)
    title = f"{problem.model}, {problem.data} ({problem.partition}), K = {problem.num_devices}"
    axes.set_title(f"{title}\n{problem.testbed}, {problem.network}", loc="left", fontsize=9)
    axes.set_xlabel("training time in (emulated) seconds")
    axes.set_ylabel(comparison.column.replace("_", " "))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="lower right")


def _draw_method(axes: Axes, column: str, method: Method, dashes: str) -> None:
    colour, curve = COLOURS[method.strategy], method.mean_curve(column)
    times, means = [time for time, _ in curve], [figures.mean for _, figures in curve]
    label = method.label
    if len(method.runs) > 1:
        label += f" (mean of {len(method.runs)})"
        low, high = ([figures.mean + sign * figures.deviation for _, figures in curve] for sign in (-1, 1))
        axes.fill_between(times, low, high, color=colour, alpha=0.2, linewidth=0)
        for run in method.runs:
            points = run.over_time(column).values()
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.6, alpha=0.5)
    axes.plot(times, means, dashes, marker="o", markersize=2.5, linewidth=1.4, color=colour, label=label)
