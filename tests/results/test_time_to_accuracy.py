"""How soon methods reach an accuracy."""

import math
from statistics import stdev

import pytest
import yaml

from pipar_rpc.results.report_accuracy import accuracy_figure, time_to_accuracy_section
from pipar_rpc.results.runs import load
from pipar_rpc.results.time_to_accuracy import Spread, compare, first_to_reach
from tests.support.results import FL, PIPAR, SFL, write

COMMON = {"data": "digits", "partition": "iid", "batch_size": 10, "compression": "none", "time_scale": 2}


def make(folder, kind, seconds, accuracies, seed=0, config=None, column="test_accuracy"):
    """A run whose epochs take equally long."""
    rows = [
        kind
        | COMMON
        | {"epoch": n, "seed": seed, "epoch_time_s": seconds, column: "" if value is None else value}
        for n, value in enumerate(accuracies, start=1)
    ]
    write(folder, *rows)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, **config}))


@pytest.fixture
def sweep(tmp_path):
    """fl, sfl and PiPar with two seeds each, of which one of sfl does not come far."""
    make(tmp_path / "0", FL, 20, (0.3, 0.6, 0.9))
    make(tmp_path / "1", FL, 22, (0.3, 0.5, 0.8), seed=1)
    make(tmp_path / "2", SFL, 30, (0.4, 0.7, 0.8))
    make(tmp_path / "3", SFL, 30, (0.4, 0.5, 0.6), seed=1)
    make(tmp_path / "4", PIPAR, 10, (0.4, 0.8, 0.9))
    make(tmp_path / "5", PIPAR, 10, (0.5, 0.7, 0.8), seed=1)
    return tmp_path


def table(runs, target=None):
    """Cells by method and heading."""
    section = time_to_accuracy_section(compare(runs, target))
    assert {len(row) for row in section.rows} == {len(section.headings)}
    rows = [dict(zip(section.headings, row, strict=True)) for row in section.rows]
    return {row["method"]: row for row in rows}


def test_time_is_the_sum_of_the_epochs_until_the_first_that_has_the_target(tmp_path):
    make(tmp_path / "run", PIPAR, 10, (0.25, None, 0.333333, 0.3))
    (run,) = load([tmp_path])
    assert first_to_reach(run, "test_accuracy", 0.25) == (1, 10)
    assert first_to_reach(run, "test_accuracy", 1 / 3) == (3, 30)  # which results.csv has with six digits
    assert first_to_reach(run, "test_accuracy", 0.34) is None
    assert first_to_reach(run, "val_accuracy", 0.1) is None


def test_methods_are_compared_over_their_seeds(sweep):
    rows = table(load([sweep]), 0.8)
    fl, sfl, pipar = rows["fl"], rows["sfl P=1"], rows["pipar P=1 N=5"]
    assert (fl["reached by"], fl["time s"]) == ("2 of 2", f"63 ± {stdev([60, 66]):.3g}")
    assert (sfl["reached by"], sfl["time s"], sfl["speed-up"]) == ("1 of 2", "90", "")
    assert (pipar["time s"], pipar["epoch"]) == (f"25 ± {stdev([20, 30]):.3g}", "2.5")
    assert (pipar["speed-up"], pipar["over"]) == (f"{63 / 25:.2f}x", "fl")
    assert {row["target"] for row in rows.values()} == {"0.8"}
    rows = table(load([sweep]), 0.85)
    assert (rows["sfl P=1"]["time s"], rows["sfl P=1"]["reached by"]) == ("not reached", "0 of 2")
    assert {row["speed-up"] for row in rows.values()} == {""}  # no method reaches it with all seeds


def test_without_fl_the_slowest_is_what_others_are_compared_with(sweep):
    runs = [run for run in load([sweep]) if run.strategy != "fl"]
    rows = table(runs, 0.5)
    assert rows["pipar P=1 N=5"]["speed-up"] == f"{60 / 15:.2f}x"
    assert {row["over"] for row in rows.values()} == {"sfl P=1"}
    assert {row["over"] for row in table(runs[:2], 0.5).values()} == {""}  # nothing to compare with


def test_the_target_is_what_all_runs_have_reached_or_what_the_jobs_were_to_reach(sweep, tmp_path):
    (comparison,) = compare(load([sweep]))
    assert (comparison.column, comparison.target) == ("test_accuracy", 0.6)
    assert all(comparison.is_complete(method) for method in comparison.methods)
    for name, until in (("a", 0.75), ("b", 0.7)):
        config = {"until": {"val_accuracy": until, "test_accuracy": None}}
        make(tmp_path / name, PIPAR | {"model": "other"}, 5, (0.6, 0.8), config=config, column="val_accuracy")
    other = next(each for each in compare(load([tmp_path])) if each.problem.model == "other")
    assert (other.column, other.target) == ("val_accuracy", 0.7)
    assert {each.target for each in compare(load([tmp_path]), 0.65)} == {0.65}


def test_runs_are_one_method_only_if_they_differ_in_the_seed_alone(tmp_path):
    """Not in what results.csv does not tell; but P and N of federated learning do not matter."""
    for number, (seed, rate) in enumerate(((0, 0.1), (1, 0.1), (0, 0.2), (1, 0.2))):
        config = {"optimizer": {"lr": rate}, "epochs": number, "pipeline": {"num_micro_batches": number}}
        make(tmp_path / str(number), FL, 10, (0.5,), seed, config)
    (comparison,) = compare(load([tmp_path]))
    assert [(method.label, len(method.runs)) for method in comparison.methods] == [
        ("fl, optimizer.lr=0.1", 2),
        ("fl, optimizer.lr=0.2", 2),
    ]


def test_seeds_for_which_the_selector_chose_otherwise_are_one_method(tmp_path):
    for seed in (0, 1):
        cut = {"split_point": 1 + seed, "num_micro_batches": 4 + seed}
        config = {"selector": {"profile_iterations": 3}}
        make(tmp_path / str(seed), PIPAR | cut, 10, (0.5,), seed, config)
    (comparison,) = compare(load([tmp_path]))
    (method,) = comparison.methods
    assert (method.label, len(method.runs)) == ("pipar, P and N chosen", 2)


def test_codecs_make_another_method(tmp_path):
    for name in ("none", "int8"):
        write(tmp_path / name, PIPAR | COMMON | {"epoch": 1, "test_accuracy": 0.5, "compression": name})
    (comparison,) = compare(load([tmp_path]))
    assert {method.label for method in comparison.methods} == {"pipar P=1 N=5", "pipar P=1 N=5, int8"}


def test_runs_without_an_accuracy_are_left_out(tmp_path):
    make(tmp_path / "0", FL, 10, (None, None))
    assert compare(load([tmp_path])) == []
    make(tmp_path / "1", PIPAR, 10, (None, 0.5))
    (comparison,) = compare(load([tmp_path]))
    assert [method.strategy for method in comparison.methods] == ["pipar"]


def test_the_mean_ends_with_the_shortest_run(tmp_path):
    make(tmp_path / "0", PIPAR, 10, (0.3, 0.5, 0.7))
    make(tmp_path / "1", PIPAR, 12, (0.4, 0.7), seed=1)
    (comparison,) = compare(load([tmp_path]))
    (method,) = comparison.methods
    assert method.mean_curve("test_accuracy") == [
        (11, (pytest.approx(0.35), pytest.approx(stdev([0.3, 0.4])))),
        (22, (pytest.approx(0.6), pytest.approx(stdev([0.5, 0.7])))),
    ]
    assert math.isnan(Spread.of([1.0]).deviation)


def test_each_problem_has_a_panel_and_each_method_a_line(sweep):
    make(sweep / "other", PIPAR | {"network": "wifi"}, 10, (0.5, 0.6))
    first, second = accuracy_figure(compare(load([sweep]), 0.75)).axes
    _, labels = first.get_legend_handles_labels()
    assert labels == ["fl (mean of 2)", "sfl P=1 (mean of 2)", "pipar P=1 N=5 (mean of 2)", "target 0.75"]
    assert len(first.collections) == 3  # bands
    lines = {line.get_label(): list(line.get_xdata()) for line in first.get_lines()}
    assert lines["fl (mean of 2)"] == pytest.approx([21, 42, 63])
    assert second.get_legend_handles_labels()[1] == ["pipar P=1 N=5", "target 0.75"]
    assert not second.collections
