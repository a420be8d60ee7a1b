"""The selector's score from results files."""

import pytest

from pipar_rpc.results.runs import load
from pipar_rpc.results.scores import scores
from pipar_rpc.score import main
from tests.support.results import PIPAR, write


@pytest.fixture
def folders(tmp_path):
    """Epochs of P=1 N=4: 10, 12 and 50 s (median 12), N=5: 10 s; of P=2 N=5: 9 s."""
    cells = [(1, 4, 10), (1, 4, 50), (1, 4, 12), (1, 5, 10), (2, 5, 9)]
    for number, (p, n, seconds) in enumerate(cells):
        times = {"epoch_time_s": seconds, "training_time_s": seconds}
        write(tmp_path / f"grid/{number}", PIPAR | {"split_point": p, "num_micro_batches": n} | times)
    chosen = tmp_path / "choice"
    times = {"epoch_time_s": 11, "training_time_s": 11}
    write(chosen, PIPAR | {"split_point": 1, "num_micro_batches": 4} | times)
    lines = ["device,split_point,num_micro_batches", "1,1,4", "1,2,5", "1,3,7", "2,1,9"]
    (chosen / "selection.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_scores_are_optimal_over_selected(folders):
    found, missing = scores(load([folders]), 3)
    assert [(score.among, score.selected, score.optimal) for score in found] == [
        *[("all", ("1", "4"), ("2", "5")), ("1", ("1", "4"), ("1", "5")), ("2", ("2", "5"), ("2", "5"))]
    ]
    selected_s = 11.5  # the median of 10, 11, 12 and 50: the chosen run is one of its cell
    assert [score.value for score in found] == pytest.approx([9 / selected_s, 10 / selected_s, 1])
    assert missing == ["vgg5, K = 4, pi, 4g: P=3 N=7"]


def test_the_script_writes_a_table_and_a_picture(folders, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["score", str(folders), "--iterations=3"])
    main()
    assert (folders / "score.png").stat().st_size > 1000
    assert "0.783" in (folders / "score.txt").read_text()
    assert "not run: vgg5, K = 4, pi, 4g: P=3 N=7" in capsys.readouterr().out
