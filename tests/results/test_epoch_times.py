"""A training without emulation over the epoch times of short runs on testbeds."""

import pytest

from pipar_rpc.base.errors import UserError
from pipar_rpc.results.epoch_times import with_times_of
from pipar_rpc.results.runs import load
from pipar_rpc.results.time_to_accuracy import compare
from tests.support.results import FL, PIPAR, write

SHORT = {
    "iterations": 3,
    "compression": "none",
    "batch_size": 10,
}  # 3 iterations of 2 s or 6 s, 4 s for models
LONG = SHORT | {
    "iterations": 30,
    "epoch_time_s": 1,
    "training_time_s": 1,
    "network": "none",
    "testbed": "native",
}


@pytest.fixture
def trained(tmp_path):
    for name, kind in (("fl", FL), ("pipar", PIPAR)):
        accuracies = [{"epoch": n, "test_accuracy": 0.2 * n} for n in (1, 2)]
        write(tmp_path / name, *(kind | LONG | epoch for epoch in accuracies))
    return load([tmp_path])


def test_epochs_take_what_they_would_on_each_testbed(trained, tmp_path):
    for network, factor in (("4g", 1), ("wifi", 2)):
        for name, kind in (("fl", FL), ("pipar", PIPAR)):
            times = {
                "epoch_time_s": kind["epoch_time_s"] * factor,
                "training_time_s": kind["training_time_s"] * factor,
            }
            write(
                tmp_path / "times" / f"{name}_{network}",
                kind | SHORT | times | {"epoch": 1, "network": network},
            )
    runs = with_times_of(trained, load([tmp_path / "times"]))
    assert {
        (run.strategy, run.text("network"), run.text("testbed")): run.over_time("test_accuracy")
        for run in runs
    } == {
        ("fl", "4g", "pi"): {1: (184, 0.2), 2: (368, 0.4)},
        ("fl", "wifi", "pi"): {1: (368, 0.2), 2: (736, 0.4)},
        ("pipar", "4g", "pi"): {1: (64, 0.2), 2: (128, 0.4)},
        ("pipar", "wifi", "pi"): {1: (128, 0.2), 2: (256, 0.4)},
    }
    assert [comparison.problem.network for comparison in compare(runs)] == ["4g", "wifi"]


@pytest.mark.parametrize(
    "other", [{"num_micro_batches": 4}, {"model": "vgg11"}, {"batch_size": 20}, {"compression": "int8"}]
)
def test_times_of_another_method_do_not_count(trained, tmp_path, other):
    write(tmp_path / "times" / "fl", FL | SHORT | {"epoch": 1})
    write(tmp_path / "times" / "pipar", PIPAR | SHORT | other | {"epoch": 1})
    with pytest.raises(
        UserError, match=r"^--times: there is no run of pipar P=1 N=5 with vgg5, K = 4, batch size 10"
    ):
        with_times_of(trained, load([tmp_path / "times"]))
