"""The simulation as a command: a job, a sweep, and what is wrong."""

import csv
from functools import partial
from pathlib import Path

import pytest

from tests.support.commands import run_here
from tests.support.simulated import OPTIONS, made_up


@pytest.fixture
def simulate(tmp_path, monkeypatch):
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run_here, "pipar_rpc.simulate", "node.download=false", *OPTIONS, made_up(tmp_path))


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_job_leaves_a_table_and_a_picture(tmp_path, simulate):
    options = ("num_devices=1000", "simulation.slowdown=[lognormal,0.5]", "simulation.scan=true")
    done = simulate(*options, "hydra.run.dir=run")
    assert done.code == 0, done.err
    (row,) = table(tmp_path / "run/simulation.csv")
    assert (row["strategy"], row["server_half"], row["num_devices"]) == ("pipar", "replicated", "1000")
    assert float(row["epoch_time_s"]) > float(row["own_time_p95_s"]) > float(row["own_time_s"]) > 0
    assert int(row["best_split_point"]) in range(1, 6)
    assert (tmp_path / "run/simulation.png").read_bytes().startswith(b"\x89PNG")
    assert "epoch s" in done.out
    assert "run/simulation.csv" in done.out
    assert not (tmp_path / "run/results.csv").exists()


def test_a_sweep_has_a_row_for_each_job_and_a_picture_over_the_devices(tmp_path, simulate):
    swept = ("num_devices=2,16", "simulation.server_half=replicated,merged", "num_servers=1,4")
    done = simulate("--multirun", *swept, "hydra.sweep.dir=sweep")
    assert done.code == 2  # two devices cannot be on four servers, which stops nobody else
    assert done.err.count("num_servers=4: must be 1..2, the number of devices") == 2
    rows = table(tmp_path / "sweep/simulation.csv")
    assert len(rows) == 6
    assert {(row["server_half"], row["num_servers"]) for row in rows} == {
        *(("replicated", "1"), ("replicated", "4"), ("merged", "1"), ("merged", "4"))
    }
    assert (tmp_path / "sweep/simulation_scale.png").exists()
    assert len(list((tmp_path / "sweep").glob("*/simulation.png"))) == 6


def test_unit_times_come_from_profiles_or_are_recorded_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recorded = run_here(
        *("pipar_rpc.profiler", "vgg5", "--image-size=8", "--batch-sizes=2,10", "--runs=1"),
        *("--accept-disturbed", "--slowdown=50", "--output=slow.yaml"),
    )
    assert recorded.code == 0, recorded.err
    simulate = partial(run_here, "pipar_rpc.simulate", *OPTIONS, "num_devices=3")
    for number, options in enumerate(
        (
            ("testbed.profile=slow.yaml", "simulation.server_profile=slow.yaml"),
            ("testbed.profile=slow.yaml",),
            (),
        )
    ):
        done = simulate(*options, f"hydra.run.dir={number}")
        assert done.code == 0, done.err
    (slow,), (half,), (native,) = (table(Path(f"{number}/simulation.csv")) for number in range(3))
    assert float(slow["server_cores"]) == 1.0  # a file does not say
    times = [float(row["epoch_time_s"]) for row in (slow, half, native)]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (
            ["simulation.uplinks=[constant,1]"],
            2,
            "simulation.uplinks: no such key: did you mean simulation.u",
        ),
        (["simulation.facts=none.yaml"], 2, "none.yaml: cannot be read: No such file"),
        (["model=vgg11", "data.image_size=32"], 2, "simulation.facts="),
        (["num_devices=2,3"], 2, "num_devices: several values need --multirun"),
        (["objective=test_accuracy"], 2, "objective=test_accuracy: must be null in a simulation"),
        (
            ["num_devices=2", "simulation.drop_probability=1", "epochs=2"],
            1,
            "0 devices are left in round 1, fault.min_devices=1",
        ),
    ],
)
def test_what_is_wrong_is_one_line(simulate, arguments, code, line):
    done = simulate(*arguments, "hydra.run.dir=run")
    assert done.code == code
    (said,) = done.err.splitlines()
    assert said.startswith(f"pipar_rpc: error: {line}")
