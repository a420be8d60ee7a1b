"""The picture of who has which classes stays a picture, however many devices there are."""

import pytest

from pipar_rpc.results.figures import class_counts_figure


@pytest.mark.parametrize(("devices", "annotated"), [(1, True), (20, True), (1000, False)])
def test_the_classes_of_many_devices_fit_into_a_picture(devices, annotated):
    figure = class_counts_figure([[device, 1] for device in range(devices)], ["cat", "dog"])
    axes = figure.axes[0]
    assert figure.get_size_inches()[0] <= 18
    assert bool(axes.texts) == annotated
    assert len(axes.get_xticks()) <= 35
    assert axes.images[0].get_array().shape == (2, devices)
