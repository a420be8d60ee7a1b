"""What the curves of epoch time over the number of devices are told apart by."""

import math

import pytest

from pipar_rpc.results.simulation import SimulatedJob
from pipar_rpc.results.simulation_figures import scale_figure

TEXTS = {"strategy": "pipar", "server_half": "replicated", "model": "vgg5", "data": "digits", "network": "4g"}


def job(**settings) -> SimulatedJob:
    fields = dict.fromkeys(SimulatedJob._fields, 1) | TEXTS | {"server_bound_devices": None} | settings
    return SimulatedJob(**fields)


def lines(rows):
    return scale_figure(rows).axes[0].get_lines()


def test_a_method_has_a_colour_and_a_number_of_servers_a_style():
    rows = [
        job(strategy=strategy, num_servers=servers, num_devices=devices)
        for strategy in ("sfl", "pipar")
        for servers in (1, 8)
        for devices in (64, 4)
    ]
    drawn = {line.get_label(): line for line in lines(rows)}
    assert [*drawn] == ["sfl, 1 server", "sfl, 8 servers", "pipar, 1 server", "pipar, 8 servers"]
    assert all(list(line.get_xdata()) == [4, 64] for line in drawn.values())
    looks = {name: (line.get_color(), line.get_linestyle()) for name, line in drawn.items()}
    assert len(set(looks.values())) == 4
    assert len({colour for colour, _ in looks.values()}) == 2
    assert looks["sfl, 8 servers"][1] == looks["pipar, 8 servers"][1]


def test_jobs_of_one_method_with_other_settings_are_curves_of_their_own():
    rows = [job(num_micro_batches=n, num_devices=devices) for n in (1, 8) for devices in (4, 64)]
    assert [line.get_label() for line in lines(rows)] == ["pipar, 1 server, N = 1", "pipar, 1 server, N = 8"]


@pytest.mark.parametrize(("bound", "rings"), [(None, 0), (2.0, 0), (100.0, 1), (1001.0, 0)])
def test_a_ring_on_the_curve_shows_where_the_server_begins_to_bound_it(bound, rings):
    rows = [job(num_devices=n, epoch_time_s=n, server_bound_devices=bound) for n in (10, 1000)]
    _, *found = lines(rows)
    assert len(found) == rings
    for ring in found:
        assert math.isclose(ring.get_xdata()[0], 100.0)
        assert math.isclose(ring.get_ydata()[0], 100.0)
