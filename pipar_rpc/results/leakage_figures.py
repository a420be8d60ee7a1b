"""The pictures of `python -m pipar_rpc.leakage`."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipar_rpc.results.leakage import Leakage, way_name

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PANELS = (
    ("ssim", "reconstruction: SSIM", "mean_image_ssim"),
    ("distance_correlation", "distance correlation", None),
    ("cut_label_accuracy", "labels from gradients at the cut", "label_chance"),
    ("predicted_iteration_s", "iteration, s (predicted)", None),
)


def leakage_figure(rows: Sequence[Leakage], title: str) -> Any:
    """Draws leakage and the time of an iteration over P; a line for each codec and noise."""
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    for axes, (column, name, nothing) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        _lines(axes, rows, column)
        if column == "distance_correlation":
            _lines(axes, rows, "distance_correlation_chance", linestyle=":", linewidth=1)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("split point P")
        axes.set_xticks(sorted({row.split_point for row in rows}))
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        chance = None if nothing is None else getattr(rows[0], nothing)
        if chance is not None:
            axes.axhline(chance, color="grey", linestyle=":", linewidth=1)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, [*labels], loc="outside lower center", ncols=min(4, len(labels)), fontsize=9)
    figure.suptitle(f"{title}; dotted: chance, for SSIM the mean image", fontsize=11)
    return figure


def _lines(axes: Axes, rows: Sequence[Leakage], column: str, **style: Any) -> None:
    for number, way in enumerate(dict.fromkeys(row.way for row in rows)):
        points = [
            (row.split_point, getattr(row, column))
            for row in rows
            if row.way == way and getattr(row, column) is not None
        ]
        look = {"marker": "" if style else "o", "label": way_name(way), **style}
        if points:
            axes.plot(*zip(*points, strict=True), color=COLOURS[number % len(COLOURS)], **look)


def reconstructions_figure(originals: Any, found: Sequence[tuple[Leakage, Any]]) -> Any:
    """Draws images, and below them what was reconstructed: a row for each P, codec and noise.

    Args:
        originals: images with pixels 0..1, array of shape [n, S, S, 1 or 3].
        found: rows of the table with their reconstructions, shaped alike.
    """
    pictures = [("original", originals)]
    pictures += [(f"P = {row.split_point}, {way_name(row.way)}", images) for row, images in found]
    count = len(originals)
    figure = Figure(figsize=(2.6 + 0.8 * count, 0.8 * len(pictures)), layout="constrained")
    cells = figure.subplots(len(pictures), count, squeeze=False)
    for line, (name, images) in zip(cells, pictures, strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image.squeeze(), cmap="grey", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure
