"""The picture of an iteration."""

import pytest

from pipar_rpc.results.gantt import iteration_figure
from tests.support.recording import RECORDING


def test_the_picture_of_an_iteration_has_every_device_and_begins_at_zero():
    assert [len(spans) for spans in RECORDING.iteration(0)] == [6]  # neither updates nor models
    figure = iteration_figure([*RECORDING.iteration(0), *RECORDING.iteration(0)], "iteration 1", scale=2)
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["device 1", "device 2"]
    bars = [(bar.get_x(), bar.get_width()) for bar in panels[0].patches]
    assert bars[0] == (0, 2)
    assert max(x + width for x, width in bars) == pytest.approx(12)
