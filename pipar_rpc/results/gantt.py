"""Spans as a picture: one lane per resource, one bar per span."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pipar_rpc.timing.metrics import DEVICE_CODING, SERVER_CODING
from pipar_rpc.timing.timeline import Span, Stage

MAX_DEVICES = 8  # most devices in one figure
LANES = ("device", "uplink", "server", "downlink")
CODING_COLOUR = "#F0E442"
STYLE: dict[Stage, tuple[str, str]] = {  # lane, colour (Okabe and Ito's palette, safe for the colour-blind)
    Stage.DEVICE_FORWARD: ("device", "#0072B2"),
    Stage.UPLINK: ("uplink", "#E69F00"),
    Stage.SERVER_FORWARD: ("server", "#009E73"),
    Stage.SERVER_BACKWARD: ("server", "#D55E00"),
    Stage.DOWNLINK: ("downlink", "#CC79A7"),
    Stage.DEVICE_BACKWARD: ("device", "#56B4E9"),
    Stage.OUTPUT_DOWNLINK: ("downlink", "#7D3F63"),
    Stage.DEVICE_TAIL: ("device", "#404040"),
    Stage.RETURN_UPLINK: ("uplink", "#8C6100"),
    **dict.fromkeys(DEVICE_CODING, ("device", CODING_COLOUR)),
    **dict.fromkeys(SERVER_CODING, ("server", CODING_COLOUR)),
}
CODING = {*DEVICE_CODING, *SERVER_CODING}
SOMETIMES = {*CODING, Stage.OUTPUT_DOWNLINK, Stage.DEVICE_TAIL, Stage.RETURN_UPLINK}


def draw(axes: Any, spans: Iterable[Span], title: str) -> None:
    """Draws the pipeline stages of one iteration.

    Args:
        axes: matplotlib axes.
        spans: spans of the stages of micro-batches; others are left out.
        title: title of the picture.
    """
    shown = [span for span in spans if span.stage in STYLE]
    narrow = max((span.end for span in shown), default=0.0) / 50  # seconds of a bar too narrow for a number
    for span in shown:
        lane, colour = STYLE[span.stage]
        width = span.end - span.start
        edge = "white" if width > narrow / 4 else colour  # the edge alone would cover a thin bar
        axes.barh(LANES.index(lane), width, left=span.start, height=0.8, color=colour, edgecolor=edge)
        if width > narrow:
            middle = (span.start + width / 2, LANES.index(lane))
            text = str(span.micro_batch)
            axes.annotate(text, middle, ha="center", va="center", color="white", fontsize=8)
    axes.set_yticks(range(len(LANES)), LANES)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def iteration_figure(devices: Sequence[Sequence[Span]], title: str, scale: float) -> Any:
    """Draws one iteration of every device, below each other on one time axis; the first ones if many.

    Args:
        devices: spans of the iteration, in one clock.
        title: title of the figure.
        scale: factor on all times.
    """
    from matplotlib.figure import Figure

    shown = devices[:MAX_DEVICES]
    origin = min((span.start for spans in shown for span in spans), default=0.0)
    figure = Figure(figsize=(11, 1.2 + 1.7 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for number, (axes, spans) in enumerate(zip(panels, shown, strict=True), start=1):
        moved = [
            span._replace(start=(span.start - origin) * scale, end=(span.end - origin) * scale)
            for span in spans
        ]
        draw(axes, moved, f"device {number}")
    panels[-1].set_xlabel("seconds")
    figure.suptitle(title)
    stages = {span.stage for spans in shown for span in spans}
    handles = legend(stages)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def legend(stages: Collection[Stage]) -> list[Any]:
    """Returns handles for a figure's legend: one for each of the six stages, and one for what else is shown.

    All codecs share one.

    Args:
        stages: stages that are shown.
    """
    from matplotlib.patches import Patch

    handles = [
        Patch(color=colour, label=stage.replace("_", " "))
        for stage, (_, colour) in STYLE.items()
        if stage not in SOMETIMES or stage in set(stages) - CODING
    ]
    return handles + [Patch(color=CODING_COLOUR, label="coding")] * bool(CODING & set(stages))
