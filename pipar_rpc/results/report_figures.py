"""The pictures of a report."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipar_rpc.results.runs import ORDER, Case, Run, shown

Cases = Mapping[Case, Mapping[str, Run]]
COLOURS = {"fl": "#E69F00", "sl": "#CC79A7", "sfl": "#56B4E9", "pipar": "#0072B2"}  # Okabe and Ito
WIDTH, PANELS_IN_A_ROW = 11.0, 2


def bars(cases: Cases, up: Callable[[Run], float], title: str, unit: str) -> Figure:
    """Draws a panel for each setting, a group for each network, a bar for each strategy."""
    return _panels(cases, title, lambda axes, networks: _groups(axes, networks, up, unit))


def up_down_bars(
    cases: Cases,
    up: Callable[[Run], float],
    down: Callable[[Run], float],
    title: str,
    labels: tuple[str, str],
) -> Figure:
    """Draws the same with a second figure below the axis; `labels` name what is above and below."""

    def draw(axes: Axes, networks: Mapping[str, Mapping[str, Run]]) -> None:
        _groups(axes, networks, up, labels[0])
        _groups(axes, networks, lambda run: -down(run), "")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes.set_ylabel(f"below: {labels[1]}\nabove: {labels[0]}")

    return _panels(cases, title, draw)


def curves(runs: Sequence[Run], column: str, title: str, by_time: bool) -> Figure | None:
    """Draws a column of every epoch, over epochs or over time; None without a run of several epochs."""
    shown = [run for run in runs if len(run.curve(column)) > 1]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH / 2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for run in shown:
        values = run.curve(column)
        times = list(accumulate(run.curve("epoch_time_s")))
        steps = times if by_time else list(range(1, len(values) + 1))
        label = f"{run.case.model} {run.case.network} {run.label}"
        dashes = "--" if run.strategy == "sfl" else "-"  # it may lie on fl's line
        axes.plot(steps, values, dashes, label=label, linewidth=1.4, color=_colour(run, shown))
    axes.set_xlabel("training time in seconds" if by_time else "epoch")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=7, frameon=False, ncols=2)
    return figure


def _colour(run: Run, shown: Sequence[Run]) -> str | None:
    alone = sum(other.strategy == run.strategy for other in shown) == 1
    return COLOURS[run.strategy] if alone else None


def _panels(
    cases: Cases, title: str, draw: Callable[[Axes, Mapping[str, Mapping[str, Run]]], None]
) -> Figure:
    settings = list(dict.fromkeys(case.setting for case in cases))
    columns = min(PANELS_IN_A_ROW, len(settings))
    rows = -(-len(settings) // columns)
    figure = Figure(figsize=(WIDTH, 0.8 + 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(settings) :]:
        axes.remove()
    panels = panels[: len(settings)]
    for axes, setting in zip(panels, settings, strict=True):
        draw(axes, {case.network: runs for case, runs in cases.items() if case.setting == setting})
        axes.set_title(setting, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle(title)
    handles = {
        label: bar for axes in panels for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _groups(
    axes: Axes, networks: Mapping[str, Mapping[str, Run]], figure_of: Callable[[Run], float], unit: str
) -> None:
    strategies = [name for name in ORDER if any(name in runs for runs in networks.values())]
    width = 0.8 / len(strategies)
    for offset, strategy in enumerate(strategies):
        places = [index for index, runs in enumerate(networks.values()) if strategy in runs]
        heights = [figure_of(runs[strategy]) for runs in networks.values() if strategy in runs]
        left = [place - 0.4 + (offset + 0.5) * width for place in places]
        label = strategy if unit else None
        drawn = axes.bar(left, heights, width * 0.95, color=COLOURS[strategy], label=label)
        axes.bar_label(drawn, [shown(abs(height)) for height in heights], fontsize=6, padding=1)
    axes.set_xticks(range(len(networks)), list(networks))
    if unit:
        axes.set_ylabel(unit)
    axes.margins(y=0.12)
