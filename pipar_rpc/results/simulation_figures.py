"""The pictures of `python -m pipar_rpc.simulate`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipar_rpc.results.leakage_figures import COLOURS
from pipar_rpc.results.simulation import SimulatedJob

POINTS = 200  # of the curve of devices' times
STYLES = ("-", "--", "-.", ":")
SETTINGS = {
    "model": "",
    "data": "",
    "network": "",
    "testbed": "",
    "split_point": "P = ",
    "num_micro_batches": "N = ",
    "batch_size": "B = ",
}
"""Columns that tell curves of one method apart, and what stands before their values in a label."""


class Cut(NamedTuple):
    """An epoch with one P and N, in emulated seconds, on a sample of the devices."""

    split_point: int
    num_micro_batches: int
    epoch_s: float


def job_figure(
    row: SimulatedJob, own_s: Sequence[float], busy_s: Mapping[str, float], cuts: Sequence[Cut]
) -> Any:
    """Draws a job: times of the devices, what each resource is needed for, and epochs by P and N.

    Args:
        row: row of the job.
        own_s: training and uploads of each device in an epoch, in emulated seconds.
        busy_s: seconds of an epoch for which each resource is needed.
        cuts: what was tried; empty for nothing.
    """
    figure = Figure(figsize=(12.0, 4.0), layout="constrained")
    devices, needed, search = figure.subplots(1, 3)
    _devices(devices, row, sorted(own_s))
    needed.barh([*busy_s], [*busy_s.values()], color=COLOURS[: len(busy_s)])
    needed.axvline(row.epoch_time_s, color="grey", linestyle=":")
    needed.set_xlabel("s in an epoch (dotted: the epoch)")
    needed.set_title("how long each is needed")
    _search(search, cuts)
    bound = row.server_bound_devices
    limit = "" if bound is None else f"; the server bounds an epoch from {bound:.0f} devices on"
    figure.suptitle(f"{row.method}: {row.model}, {row.network}, K = {row.num_devices}{limit}", fontsize=11)
    return figure


def _devices(axes: Axes, row: SimulatedJob, own_s: Sequence[float]) -> None:
    step = max(1, len(own_s) // POINTS)
    axes.plot(own_s[::step], [100 * n / len(own_s) for n in range(1, len(own_s) + 1, step)])
    axes.axvline(row.epoch_time_s, color="grey", linestyle=":")
    axes.set_xlim(left=0.0)
    axes.set_xlabel("training and uploads in an epoch, s (dotted: the epoch)")
    axes.set_ylabel("% of the devices")
    axes.set_title("devices")


def _search(axes: Axes, cuts: Sequence[Cut]) -> None:
    points = sorted({cut.split_point for cut in cuts})
    for number, point in enumerate(points):
        own = [(cut.num_micro_batches, cut.epoch_s) for cut in cuts if cut.split_point == point]
        axes.plot(
            *zip(*own, strict=True), marker=".", color=COLOURS[number % len(COLOURS)], label=f"P = {point}"
        )
    axes.set_title("other P and N, on a sample" if cuts else "no other P and N were tried")
    if cuts:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("N")
        axes.set_ylabel("epoch, s")
        axes.legend(fontsize=8)


def scale_figure(rows: Sequence[SimulatedJob]) -> Any:
    """Draws epoch time over the number of devices: a colour by method, a style by number of servers."""
    figure = Figure(figsize=(8.0, 5.6), layout="constrained")
    axes = figure.add_subplot()
    curves = _curves(rows)
    methods = list(dict.fromkeys(method for method, _, _ in curves))
    servers = sorted({number for _, number, _ in curves})
    for (method, number, label), own in curves.items():
        colour = COLOURS[methods.index(method) % len(COLOURS)]
        points = [row.num_devices for row in own], [row.epoch_time_s for row in own]
        style = STYLES[servers.index(number) % len(STYLES)]
        axes.plot(*points, linestyle=style, color=colour, marker=".", label=label)
        bound = own[-1].server_bound_devices
        if bound is not None and own[0].num_devices <= bound <= own[-1].num_devices:
            height = np.exp(np.interp(np.log(bound), *np.log(points)))
            axes.plot(bound, height, marker="o", markersize=9, fillstyle="none", color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("devices")
    axes.set_ylabel("epoch, s")
    same = [value for name in ("model", "network") if (value := _only(rows, name))]
    axes.set_title(", ".join([*same, "rings: from there on the server bounds an epoch"]), fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, handlelength=3.5)
    return figure


def _curves(rows: Sequence[SimulatedJob]) -> dict[tuple[str, int, str], list[SimulatedJob]]:
    """Rows by strategy with server half, number of servers and label, in ascending number of devices.

    A label has those settings besides that differ between jobs of one method.
    """
    by_method: dict[str, list[SimulatedJob]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    differ = [name for name in SETTINGS if any(_only(own, name) is None for own in by_method.values())]
    curves: dict[tuple[str, int, str], list[SimulatedJob]] = {}
    for own in by_method.values():
        for row in sorted(own, key=lambda row: row.num_devices):
            label = ", ".join([row.method, *(f"{SETTINGS[name]}{getattr(row, name)}" for name in differ)])
            curves.setdefault((f"{row.strategy} {row.server_half}", row.num_servers, label), []).append(row)
    return curves


def _only(rows: Sequence[SimulatedJob], name: str) -> Any:
    """The value of a column, or None if there are several."""
    values = {getattr(row, name) for row in rows}
    return values.pop() if len(values) == 1 else None
