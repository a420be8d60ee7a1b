"""Results files that are compared."""

import pytest

from pipar_rpc.results.runs import best, load
from tests.support.results import FL, PIPAR, SFL, SL, write


@pytest.fixture
def sweep(tmp_path):
    write(tmp_path / "0_pipar", PIPAR)
    write(tmp_path / "1_sfl", SFL)
    write(tmp_path / "2_sfl", SFL | {"split_point": 2, "epoch_time_s": 20, "training_time_s": 15})
    write(tmp_path / "3_fl", FL)
    write(tmp_path / "4_sl", SL)
    epochs = [{"epoch": n, "test_accuracy": 0.5 + n / 10, "train_loss": 1 / n} for n in (1, 2, 3)]
    write(tmp_path / "5_other", *(PIPAR | {"model": "resnet18"} | epoch for epoch in epochs))
    return tmp_path


def test_an_epoch_of_more_iterations_moves_models_as_often(sweep):
    run = next(run for run in load([sweep]) if run.case.model == "vgg5" and run.strategy == "pipar")
    assert run.epoch_s(3) == pytest.approx(10)
    assert run.epoch_s(100) == pytest.approx(4 + 100 * 2)
    assert run.idle_s("server", 100) == pytest.approx(204 - 100 * 0.5)
    assert run.idle_s("device", 100) == pytest.approx(204 - 100 * 1.5)
    assert run.mbps("uplink", 100) == pytest.approx((1 + 6 / 3 * 100) * 8 / 204)


def test_in_split_learning_the_devices_follow_each_other(sweep):
    (run,) = (run for run in load([sweep]) if run.strategy == "sl")
    assert run.epoch_s(100) == pytest.approx(0.4 + 100 * 4 * 2)


def test_the_fastest_run_of_each_strategy_is_compared(sweep):
    cases = best(load([sweep]), 100)
    assert list(cases) == [
        ("resnet18", "4g", "4", "pi", "none", "none"),
        ("vgg5", "4g", "4", "pi", "none", "none"),
    ]
    assert [run.label for run in cases["vgg5", "4g", "4", "pi", "none", "none"].values()] == [
        *("fl", "sl P=1", "sfl P=1", "pipar P=1 N=5")
    ]


def test_other_numbers_of_devices_and_testbeds_are_other_cases(sweep):
    write(sweep / "6_two", PIPAR | {"num_devices": 2, "epoch_time_s": 5, "training_time_s": 3})
    write(sweep / "7_other", PIPAR | {"testbed": "inferred", "epoch_time_s": 5, "training_time_s": 3})
    cases = best(load([sweep]), 100)
    settings = [case.setting for case in cases]
    assert settings == [
        *("vgg5, K = 4, inferred", "resnet18, K = 4, pi", "vgg5, K = 4, pi", "vgg5, K = 2, pi")
    ]
    assert [len(runs) for runs in cases.values()] == [1, 1, 4, 1]
