"""The comparison page: what it computes from results files, and what it writes."""

import base64
import re
import subprocess
import sys

import pytest

from pipar_rpc.results.runs import best, load
from tests.support.processes import ROOT, environment
from tests.support.results import PIPAR, write

SFL = PIPAR | {"strategy": "sfl", "num_micro_batches": 1, "epoch_time_s": 13, "training_time_s": 9}
FL = PIPAR | {"strategy": "fl", "split_point": 5, "epoch_time_s": 22, "training_time_s": 18}
SL = PIPAR | {"strategy": "sl", "epoch_time_s": 24.4, "training_time_s": 24}


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
    assert list(cases) == [("resnet18", "4g", "4", "pi"), ("vgg5", "4g", "4", "pi")]
    assert [run.label for run in cases["vgg5", "4g", "4", "pi"].values()] == [
        *("fl", "sl P=1", "sfl P=1", "pipar P=1 N=5")
    ]


def report(*arguments, module="pipar_rpc.report"):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), check=False, capture_output=True, text=True, timeout=120
    )


def test_the_page_holds_everything(sweep):
    done = report(sweep, "--iterations", 100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sweep / "report.html")
    page = (sweep / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is loaded from elsewhere
    for speed_up in (f"{604 / 204:.2f}x", f"{304 / 204:.2f}x"):  # fl and sfl against pipar
        assert f"<td>{speed_up}</td>" in page
    assert page.count("published, other hardware") >= 3
    pictures = {path.name for path in sweep.glob("*.png")}
    assert {"epoch_time.png", "idle.png", "throughput.png", "test_accuracy_by_epoch.png"} <= pictures
    assert len(re.findall("data:image/png;base64", page)) == len(pictures)


def test_other_numbers_of_devices_and_testbeds_are_other_cases(sweep):
    write(sweep / "6_two", PIPAR | {"num_devices": 2, "epoch_time_s": 5, "training_time_s": 3})
    write(sweep / "7_other", PIPAR | {"testbed": "inferred", "epoch_time_s": 5, "training_time_s": 3})
    cases = best(load([sweep]), 100)
    settings = [case.setting for case in cases]
    assert settings == [
        *("vgg5, K = 4, inferred", "resnet18, K = 4, pi", "vgg5, K = 4, pi", "vgg5, K = 2, pi")
    ]
    assert [len(runs) for runs in cases.values()] == [1, 1, 4, 1]


def test_the_iteration_of_each_compared_run_is_in_the_page(sweep):
    for name in ("0_pipar", "1_sfl", "2_sfl"):
        (sweep / name / "iteration.png").write_bytes(name.encode())
    assert report(sweep).returncode == 0
    page = (sweep / "report.html").read_text()
    shown = [base64.b64encode(name.encode()).decode() in page for name in ("0_pipar", "1_sfl", "2_sfl")]
    assert shown == [True, True, False]  # the third is not the best split point
    assert "<summary>vgg5, K = 4, pi, 4g: sfl P=1</summary>" in page


def test_numbers_change_with_the_files(sweep):
    report(sweep, "--iterations", 100)
    before = (sweep / "report.html").read_text()
    write(sweep / "6_faster", PIPAR | {"epoch_time_s": 7, "training_time_s": 3})
    report(sweep, "--iterations", 100)
    after = (sweep / "report.html").read_text()
    assert f"{604 / 204:.2f}x" in before
    assert f"{604 / 104:.2f}x" in after


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "no results.csv with rows below nowhere"),
        (["nowhere", "--iterations=0"], "--iterations=0: must be >= 1"),
    ],
)
def test_bad_arguments_are_one_line(arguments, line):
    done = report(*arguments)
    assert done.returncode == 2
    assert done.stderr == f"pipar_rpc: error: {line}\n"


@pytest.mark.parametrize("command", ["report", "score"])
def test_the_old_commands_go_on_working_with_a_notice(tmp_path, command):
    done = report(tmp_path, module=f"launch.{command}")
    assert done.returncode == 2
    notice, line = done.stderr.splitlines()
    assert notice == f"python -m launch.{command} is now python -m pipar_rpc.{command}"
    assert line == f"pipar_rpc: error: no results.csv with rows below {tmp_path}"
