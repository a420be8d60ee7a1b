"""What rank 0 shows: the state of the devices, the table at the end."""

from types import SimpleNamespace

from pipar_rpc.results.columns import COLUMNS
from pipar_rpc.results.terminal import MAX_ROWS_SHOWN, device_states, summary_table


def handles(*done, iterations=10):
    return [
        SimpleNamespace(port=SimpleNamespace(iteration=i, loss=0.5), iterations=iterations, present=True)
        for i in done
    ]


def test_few_devices_are_shown_one_by_one():
    shown = handles(3, 4, 10, 7)
    shown[3].present = False
    assert device_states(shown) == "devices 3 4 done lost"


def test_many_devices_are_shown_as_a_range():
    assert device_states(handles(*range(32), iterations=50)) == "32 devices at 0..31"


def row(epoch, **changes):
    values = dict.fromkeys(COLUMNS) | {"epoch": epoch, "epoch_time_s": float(epoch), "train_loss": 1.0}
    values["time_scale"] = 1.0
    return values | changes


def test_the_table_lines_up_and_has_means():
    lines = summary_table([row(1, test_accuracy=0.5), row(2)]).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-2].split()[:2] == ["mean", "1.50"]
    assert "0.5000" in lines[2]


def test_long_jobs_show_their_last_epochs():
    text = summary_table([row(epoch) for epoch in range(1, 101)])
    assert f"({100 - MAX_ROWS_SHOWN} earlier epochs are in results.csv)" in text
    assert "50.50" in text  # the mean is over all of them
    assert len(text.splitlines()) == MAX_ROWS_SHOWN + 5
