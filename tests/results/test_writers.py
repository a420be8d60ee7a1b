"""What is written while a job runs."""

from pipar_rpc.results.columns import COLUMNS
from pipar_rpc.results.csv_table import CsvTable


def row(epoch, **changes):
    values = dict.fromkeys(COLUMNS) | {"epoch": epoch, "epoch_time_s": float(epoch), "train_loss": 1.0}
    values["time_scale"] = 1.0
    return values | changes


def test_csv_rows_are_on_disk_at_once(tmp_path):
    table = CsvTable(tmp_path / "results.csv", [])
    table.add(row(1, device_uplink_mbps=(1.5, 2.0), uplink_bytes=12345678, efficiency=1 / 3))
    line = (tmp_path / "results.csv").read_text().splitlines()[1]
    assert "1.5;2" in line
    assert "12345678" in line
    assert "0.333333" in line
    table.close()
