"""Sweeps: the user's own configuration file, jobs of several sizes, sweepers that are told a figure."""

import json
import math
import sys
import textwrap
from pathlib import Path

import pytest

from pipar_rpc import hydra_compose
from pipar_rpc.base.errors import UserError
from pipar_rpc.sweep import for_sweeper, last_figure, variants
from tests.support.overrides import SMALL
from tests.support.results import rows_of

# A network that notes where it is built, and with how many threads; a sweeper that notes what it is told.
NETWORK = """
    import os
    from pathlib import Path

    import torch

    from tests.support.own_network import build

    def noting(channels, image_size, num_classes):
        if "RANK" in os.environ:
            note = f"{torch.get_num_threads()} {os.getcwd()}"
            (Path(__file__).parent / f"rank{os.environ['RANK']}").write_text(note)
        return build(channels, image_size, num_classes, width=4)
"""
SWEEPER = """
    import json
    from pathlib import Path

    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    class Told(BasicSweeper):
        def sweep(self, arguments):
            returned = super().sweep(arguments)
            Path("told.json").write_text(json.dumps([job.return_value for jobs in returned for job in jobs]))
"""
OWN = """
    defaults:
      - config
      - override model: custom
      - _self_
    model:
      _target_: own_network.noting
    objective: val_accuracy
    node:
      threads: 2
    hydra:
      mode: MULTIRUN
      job:
        chdir: true
      sweeper:
        _target_: hydra_plugins.told.Told
        params:
          num_devices: 1,2
          pipeline.split_point: 1,9
"""


@pytest.fixture
def own_files(processes):
    """A directory with a configuration file of the user's, and what it names."""
    files = {"own_network.py": NETWORK, "hydra_plugins/told.py": SWEEPER, "settings/mine.yaml": OWN}
    for name, text in files.items():
        path = processes.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    (processes.directory / "links.csv").write_text("time_s,uplink_mbps,downlink_mbps\n0,500,500\n")
    return processes


def test_a_sweep_of_the_users_own_file(own_files):
    """Started without torchrun: ranks for its largest job, node keys for all, numbers for its sweeper.

    Relative paths are those of here, although Hydra goes into each job's folder.
    """
    command = [sys.executable, "-m", "pipar_rpc", *SMALL, "--config-name", "mine", "network.trace=links.csv"]
    done = own_files.finish(own_files.start([*command, "-cd", "settings"]), 120)
    assert "2 jobs done, 2 failed" in done.out, done.err
    jobs = sorted(own_files.directory.glob("outputs/pipar/*_multirun/*_P1_N8"))
    one, two = (rows_of(job)[-1] for job in jobs)
    assert (one["num_devices"], two["num_devices"]) == ("1", "2")
    told = json.loads((own_files.directory / "told.json").read_text())
    reached = [float(one["val_accuracy"]), math.nan, float(two["val_accuracy"]), math.nan]
    assert told == pytest.approx(reached, nan_ok=True)
    for rank in (1, 2):
        assert (own_files.directory / f"rank{rank}").read_text() == f"2 {own_files.directory}"
    assert not list(own_files.directory.glob("outputs/**/outputs"))


@pytest.mark.parametrize("multirun", [[], ["--multirun", "seed=1,2,3"]])
def test_hydra_may_go_into_the_jobs_folder(tmp_path, monkeypatch, multirun):
    seen = []
    monkeypatch.setattr("sys.argv", ["pipar_rpc", *multirun, "hydra.job.chdir=true"])
    monkeypatch.chdir(tmp_path)
    hydra_compose.run_jobs(lambda raw, path, number: seen.append((Path.cwd(), path.parent)), Path("results"))
    assert set(seen) == {(tmp_path, tmp_path / "results" if multirun else tmp_path)}
    assert len(seen) == (3 if multirun else 1)


def test_the_last_figure_is_told():
    rows = [{"val_accuracy": 0.5, "device_val_accuracy": (0.25, 0.75), "overlap": 0.1}]
    rows += [{"val_accuracy": 0.75, "device_val_accuracy": (0.5, None), "overlap": None}]
    assert [last_figure(rows, key) for key in rows[0]] == [0.75, 0.5, 0.1]
    assert last_figure(rows[:1], "device_val_accuracy") == 0.5
    assert math.isnan(last_figure(rows, "efficiency"))
    assert math.isnan(last_figure([], "val_accuracy"))


def test_optuna_takes_a_failed_job_for_a_failed_trial_if_it_gets_no_number():
    optuna = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    assert for_sweeper(math.nan, optuna) is None
    assert for_sweeper(0.5, optuna) == 0.5
    assert math.isnan(for_sweeper(math.nan, "hydra_plugins.told.Told"))


def test_every_value_of_a_sweep_and_every_combination_that_counts():
    choices = [["a=1", "a=2"], ["b=1"], ["c=1", "c=2", "c=3"], ["d=1", "d=2"]]
    alone = variants(choices, [False] * 4)
    assert len(alone) == 5
    assert alone[0] == ["a=1", "b=1", "c=1", "d=1"]
    together = variants(choices, [True, False, False, True])
    assert {(one[0], one[3]) for one in together} == {(a, d) for a in choices[0] for d in choices[3]}
    assert {one[2] for one in together} == set(choices[2])


@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (["--multirun", "num_devices=2,4"], 4),
        (["--multirun", "num_devices=range(2,7,2)"], 6),
        (["--multirun", "num_devices=int(interval(2,9))"], 9),  # for sweepers that choose
        (["experiment=own"], 5),
        (["experiment=own", "num_devices=3"], 3),
        (["--multirun", "experiment=plain,few", "method=own,many"], 8),
        (["--multirun", "method=many,own", "experiment=few,plain"], 8),
    ],
)
def test_there_are_ranks_for_the_largest_job(tmp_path, arguments, most):
    files = {
        "experiment/own": "hydra: {mode: MULTIRUN, sweeper: {params: {num_devices: '1,5,2', seed: '1,2'}}}",
        "experiment/few": "num_devices: 2",
        "experiment/plain": "seed: 1",
        "method/own": "seed: 2",
        "method/many": "num_devices: 8",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    jobs, multirun = hydra_compose.compose_all([f"--config-dir={tmp_path}", *arguments])
    assert multirun
    assert max(job.num_devices or 0 for job in jobs) == most


def test_the_first_job_of_an_experiment_that_is_a_sweep():
    raw, _ = hydra_compose.compose(["experiment=uplink"])
    assert raw.pipeline.num_micro_batches == 1
    with pytest.raises(UserError, match="model=vgg7: no such choice"):
        hydra_compose.compose(["experiment=compare", "hydra.sweeper.params.model='vgg5,vgg7'"])


OUTSIDE = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([f"hydra.launcher._target_={OUTSIDE}"], f"hydra/launcher={OUTSIDE}: must be basic, which runs"),
        (
            ["objective=val_acc"],
            "objective=val_acc: must be null or a figure of results.csv: did you mean val_a",
        ),
        (["objective=strategy"], "objective=strategy: must be null or a figure"),
        (["--multirun", "seed=1,2", "objective=val"], "objective=val: must be null or a figure"),
        (
            ["--multirun", f"hydra.sweeper._target_={OPTUNA}"],
            "objective=null: must be a figure of results.csv",
        ),
        (["--multirun", "hydra/launcher=basic,basic"], "hydra/launcher: must be one value"),
    ],
)
def test_sweeps_that_cannot_be(arguments, line):
    with pytest.raises(UserError) as caught:
        hydra_compose.compose(arguments)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
