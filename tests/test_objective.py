"""Sweeps: what a sweeper is told, which jobs are composed, and what cannot be."""

import math

import pytest

from pipar_rpc import hydra_compose
from pipar_rpc.base.errors import UserError
from pipar_rpc.objective import for_sweeper, last_figure, variants


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
