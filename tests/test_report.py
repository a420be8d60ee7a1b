"""The comparison page: what it computes from results files, and what it writes."""

import base64
import re
from functools import partial

import pytest

from tests.support.commands import run_here
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


report = partial(run_here, "pipar_rpc.report")


def test_the_page_holds_everything(sweep):
    done = report(sweep, "--iterations", 100)
    assert done.code == 0, done.err
    assert done.out.strip() == str(sweep / "report.html")
    page = (sweep / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is loaded from elsewhere
    for speed_up in (f"{604 / 204:.2f}x", f"{304 / 204:.2f}x"):  # fl and sfl against pipar
        assert f"<td>{speed_up}</td>" in page
    assert page.count("published, other hardware") >= 3
    pictures = {path.name for path in sweep.glob("*.png")}
    assert {
        "epoch_time.png",
        "idle.png",
        "throughput.png",
        "test_accuracy_by_epoch.png",
        "accuracy_by_time.png",
    } <= pictures
    assert len(re.findall("data:image/png;base64", page)) == len(pictures)


def test_the_iteration_of_each_compared_run_is_in_the_page(sweep):
    for name in ("0_pipar", "1_sfl", "2_sfl"):
        (sweep / name / "iteration.png").write_bytes(name.encode())
    assert report(sweep).code == 0
    page = (sweep / "report.html").read_text()
    shown = [base64.b64encode(name.encode()).decode() in page for name in ("0_pipar", "1_sfl", "2_sfl")]
    assert shown == [True, True, False]  # the third is not the best split point
    assert "<summary>vgg5, K = 4, pi, 4g: sfl P=1</summary>" in page


def test_every_cell_has_a_heading(sweep):
    """The codecs of a case once had none, and all figures stood under the heading beside theirs."""
    assert report(sweep).code == 0
    page = (sweep / "report.html").read_text()
    for table in re.findall("<table>(.*?)</table>", page, flags=re.DOTALL):
        first, *others = re.findall("<tr>(.*?)</tr>", table)
        assert {row.count("<td") for row in others} == {first.count("<th")}


def test_the_time_to_a_target_is_compared(sweep):
    assert report(sweep, "--target=0.75").code == 0
    page = (sweep / "report.html").read_text()
    assert "<td>0.75</td><td>1 of 1</td><td>3</td><td>30</td>" in page
    assert report(sweep, "--target=0.9").code == 0
    assert "<td>0 of 1</td><td></td><td>not reached</td>" in (sweep / "report.html").read_text()


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
        (["nowhere", "--target=70"], "--target=70.0: must be above 0 and at most 1"),
    ],
)
def test_bad_arguments_are_one_line(arguments, line):
    done = report(*arguments)
    assert done.code == 2
    assert done.err == f"pipar_rpc: error: {line}\n"


@pytest.mark.parametrize("command", ["report", "score"])
def test_the_old_commands_go_on_working_with_a_notice(tmp_path, command):
    done = run_here(f"launch.{command}", tmp_path)
    assert done.code == 2
    notice, line = done.err.splitlines()
    assert notice == f"python -m launch.{command} is now python -m pipar_rpc.{command}"
    assert line == f"pipar_rpc: error: no results.csv with rows below {tmp_path}"


def test_accuracies_over_the_times_of_other_runs(sweep, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    trained = {"epoch": 1, "test_accuracy": 0.5, "network": "none", "testbed": "native", "epoch_time_s": 1}
    write(folder / "fl", FL | trained)
    write(folder / "pipar", PIPAR | trained | {"test_accuracy": 0.6})
    done = run_here("pipar_rpc.report", folder, "--times", sweep)
    assert done.code == 0, done.err
    page = (folder / "report.html").read_text()
    soon = page[page.index("Time to accuracy") :]
    assert all(f"<td>{cell}</td>" in soon for cell in ("pi", "4g", "22", "10", "2.20x"))
    assert "Losses and accuracies are those of other runs, over these times." in page
    assert report(sweep, "--times", folder).code == 2  # sfl has no times there
