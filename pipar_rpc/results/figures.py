"""Pictures of results other than curves."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

MAX_CLASSES = 40  # largest number of classes of a confusion matrix that is drawn
MAX_ANNOTATED = 200  # largest number of cells with a number in each: more would not be legible


def class_counts_figure(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Any:
    """Draws how many training samples of each class each device has: a column per device, a row per class.

    Args:
        counts: number of samples of each class, for each device.
        classes: names of the classes.
    """
    devices, shown = len(counts), len(classes)
    size = (max(4.0, min(18.0, 2.2 + 0.5 * devices)), max(3.0, min(14.0, 1.4 + 0.32 * shown)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(list(zip(*counts, strict=True)), cmap="Blues", aspect="auto", vmin=0)
    axes.set_title("training samples")
    axes.set_xlabel("device")
    axes.set_ylabel("class")
    step = max(1, devices // 32)
    axes.set_xticks(range(0, devices, step), [str(device + 1) for device in range(0, devices, step)])
    step = max(1, shown // 40)
    axes.set_yticks(range(0, shown, step), [classes[index][:20] for index in range(0, shown, step)])
    if devices * shown <= MAX_ANNOTATED:
        dark = max(max(by_class) for by_class in counts) / 2
        for device, by_class in enumerate(counts):
            for label, count in enumerate(by_class):
                colour = "white" if count > dark else "black"
                axes.text(device, label, str(count), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, ax=axes)
    return figure


def confusion_figure(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Any:
    """Draws which classes are taken for which: a row per class, a column per class that was found.

    Args:
        counts: number of samples by class and class found.
        classes: names of the classes; those beyond have their number.
    """
    shown = len(counts)
    side = max(4.0, min(14.0, 1.8 + 0.42 * shown))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    names = [name[:14] for name in (*classes, *map(str, range(len(classes), shown)))]
    axes.set_title("test samples: % of each class")
    axes.set_xlabel("class found")
    axes.set_ylabel("class")
    axes.set_xticks(range(shown), names, rotation=90)
    axes.set_yticks(range(shown), names)
    if shown * shown <= MAX_ANNOTATED:
        for row, line in enumerate(shares):
            for column, share in enumerate(line):
                colour = "white" if share > 50 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, ax=axes)
    return figure
