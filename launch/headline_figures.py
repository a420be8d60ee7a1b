"""The pictures of launch.headline: a panel for each K, a group for each network, a bar for each link."""

from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from launch.headline_tables import origin
from launch.headline_values import Case
from pipar_rpc.results.runs import shown

COLOURS = ("#56B4E9", "#0072B2", "#E69F00", "#CC79A7")  # Okabe and Ito
PUBLISHED = "largest published, other hardware"
HATCHES = {"measured": None, "computed": "////", "computed, not valid": "xxxx"}


def bars(cases: Sequence[Case], value: Callable[[Case], float], title: str, largest: float | None) -> Figure:
    """Draws a figure of each case; bars of computed ones are hatched.

    Args:
        cases: cases to draw.
        value: figure of a case; NaN for no bar.
        title: heading.
        largest: largest published figure, for a line beside the bars; None for no line.
    """
    counts = sorted({case.place.num_devices for case in cases})
    figure = Figure(figsize=(11, 0.9 + 3.1 * len(counts)), layout="constrained")
    panels = figure.subplots(len(counts), 1, squeeze=False, sharey=True)[:, 0]
    links = list(dict.fromkeys(case.place.network for case in cases))
    for axes, count in zip(panels, counts, strict=True):
        _panel(axes, [case for case in cases if case.place.num_devices == count], links, value)
        axes.set_title(f"K = {count}", loc="left", fontsize=10)
        if largest is not None:
            axes.axhline(largest, color="grey", linestyle="--", linewidth=1)
    handles: list[Artist] = [
        Patch(color=COLOURS[number % len(COLOURS)], label=link) for number, link in enumerate(links)
    ]
    kinds = {origin(case) for case in cases}
    handles += [
        Patch(facecolor="white", edgecolor="black", hatch=hatch, label=name)
        for name, hatch in HATCHES.items()
        if name in kinds
    ]
    if largest is not None:
        handles.append(Line2D([], [], color="grey", linestyle="--", label=PUBLISHED))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure


def _panel(axes: Axes, cases: Sequence[Case], links: Sequence[str], value: Callable[[Case], float]) -> None:
    models = list(dict.fromkeys(case.place.model for case in cases))
    width = 0.8 / len(links)
    for case in cases:
        link = links.index(case.place.network)
        left = models.index(case.place.model) - 0.4 + (link + 0.5) * width
        height = value(case)
        hatch = HATCHES[origin(case)]
        drawn = axes.bar(
            [left], [height], width * 0.93, color=COLOURS[link % len(COLOURS)], hatch=hatch, edgecolor="white"
        )
        axes.bar_label(drawn, [shown(height)], fontsize=7, padding=1)
    axes.set_xticks(range(len(models)), models)
    axes.set_ylabel("times")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)
