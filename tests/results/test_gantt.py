"""The picture of an iteration."""

import pytest

from pipar_rpc.results.gantt import iteration_figure
from pipar_rpc.results.recording import Recording
from pipar_rpc.timing.timeline import Span, Stage

DEVICE = [
    Span(Stage.DEVICE_FORWARD, 0, 1, 10.0, 11.0),
    Span(Stage.UPLINK, 0, 1, 11.0, 13.0),
    Span(Stage.DEVICE_BACKWARD, 0, 1, 15.0, 16.0),
    Span(Stage.UPDATE, 0, 0, 16.0, 16.5),
    Span(Stage.UPLOAD, 0, 0, 16.5, 17.5),
]
SERVER = [
    Span(Stage.SERVER_FORWARD, 0, 1, 12.5, 13.5),
    Span(Stage.SERVER_BACKWARD, 0, 1, 13.5, 14.5),
    Span(Stage.DOWNLINK, 0, 1, 14.5, 15.0),
]
RECORDING = Recording(1, 10.0, [DEVICE], [SERVER], [Span(Stage.AGGREGATE, 0, 0, 17.5, 18.0)])


def test_the_picture_of_an_iteration_has_every_device_and_begins_at_zero():
    assert [len(spans) for spans in RECORDING.iteration(0)] == [6]  # neither updates nor models
    figure = iteration_figure([*RECORDING.iteration(0), *RECORDING.iteration(0)], "iteration 1", scale=2)
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["device 1", "device 2"]
    bars = [(bar.get_x(), bar.get_width()) for bar in panels[0].patches]
    assert bars[0] == (0, 2)
    assert max(x + width for x, width in bars) == pytest.approx(12)
