"""The driver that draws epoch time over the number of devices."""

import csv

from tests.support.commands import run_here
from tests.support.simulated import OPTIONS, made_up


def test_every_method_is_simulated_for_every_number_of_devices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ("--devices", 2, 100, "--servers", 1, 4)
    done = run_here("launch.simulated_scale", *sizes, "--", *OPTIONS, made_up(tmp_path))
    assert done.code == 0, done.err
    (table,) = tmp_path.glob("outputs/simulated_scale/*/simulation.csv")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["job"]) for row in rows] == list(range(11))  # two devices cannot be on four servers
    assert {(row["strategy"], row["server_half"]) for row in rows} == {
        *(("fl", "none"), ("sfl", "replicated"), ("pipar", "replicated"), ("pipar", "merged"))
    }
    assert table.with_name("simulation_scale.png").exists()
