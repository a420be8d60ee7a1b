"""Where results go: one row per epoch into results.csv and TensorBoard, pictures into TensorBoard and files.

Columns of results.csv (empty where a figure does not exist):

job                     number of the job within a multirun, 0 in a single run
epoch                   from 1
strategy, model, data, partition, network, testbed    names from the configuration; `network` is the trace's
                        name where there is one, `testbed` the profile's
num_devices             K
split_point             P at the epoch's beginning; `;`-joined where devices differ
num_micro_batches       N, likewise
batch_size              B; `;`-joined where devices differ
iterations              of the epoch, on the device with the most
seed                    of the experiment
time_scale              emulated seconds in a real one; all times and rates below are in emulated time
epoch_time_s ... efficiency       see `pipar_rpc.metrics.EpochMetrics`; per-device figures are `;`-joined
train_loss              mean over the samples of the epoch, while training
train_accuracy, val_accuracy, test_accuracy    0..1; val and test with the aggregated network
device_val_accuracy     with each device's own network, before the average; `;`-joined
training_time_s         of the epoch time, until the last device has trained; in the rest models are moved
model_bytes             of the models that all devices uploaded; they are in uplink_bytes too
predicted_iteration_s   what the selector predicted for iteration_time_s
link_uplink_mbps, link_downlink_mbps    of each device's links, with which it reckoned; `;`-joined
overlap                 see `pipar_rpc.recording.Recording`; of recorded epochs only
server_peak_rss_mb      largest resident memory of rank 0 in this job so far, 10^6 bytes
device_peak_rss_mb      the same, of the device with the most
each_device_peak_rss_mb of each device; `;`-joined
devices_alive           devices that take part at the epoch's end
devices_lost            numbers of those that have left; `;`-joined
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipar_rpc.event_files import rewind
from pipar_rpc.metrics import EpochMetrics
from pipar_rpc.storage import write_whole

Row = dict[str, Any]

SETTINGS = (
    *("job", "epoch", "strategy", "model", "data", "partition", "network", "testbed", "num_devices"),
    *("split_point", "num_micro_batches", "batch_size", "iterations", "seed", "time_scale"),
)
METRICS = tuple(field.name for field in dataclasses.fields(EpochMetrics))
OUTCOMES = (
    *("train_loss", "train_accuracy", "val_accuracy", "test_accuracy", "device_val_accuracy"),
    *("overlap", "training_time_s", "model_bytes"),
    *("predicted_iteration_s", "link_uplink_mbps", "link_downlink_mbps"),
    *("server_peak_rss_mb", "device_peak_rss_mb", "each_device_peak_rss_mb", "devices_alive", "devices_lost"),
)
COLUMNS = SETTINGS + METRICS + OUTCOMES
NAMES = ("strategy", "model", "data", "partition", "network", "testbed", "devices_lost")
FIGURES = tuple(column for column in COLUMNS if column not in NAMES)

TAGS = {  # TensorBoard groups scalars by what stands before the slash
    "epoch_time_s": "time/epoch_s",
    "iteration_time_s": "time/iteration_s",
    "bound_s": "time/iteration_bound_s",
    "split_point": "pipeline/split_point",
    "num_micro_batches": "pipeline/num_micro_batches",
    "predicted_iteration_s": "time/iteration_predicted_s",
    "efficiency": "time/efficiency",
    "overlap": "time/overlap",
    "server_idle_s": "idle/server_s",
    "device_idle_s": "idle/device_s",
    "uplink_mbps": "network/uplink_mbps",
    "downlink_mbps": "network/downlink_mbps",
    "uplink_bytes": "network/uplink_bytes",
    "downlink_bytes": "network/downlink_bytes",
    "device_uplink_mbps": "network_per_device/uplink_mbps",
    "device_downlink_mbps": "network_per_device/downlink_mbps",
    "link_uplink_mbps": "links/uplink_mbps",
    "link_downlink_mbps": "links/downlink_mbps",
    "train_loss": "train/loss",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "test_accuracy": "accuracy/test",
    "device_val_accuracy": "accuracy_per_device/val",
    "server_peak_rss_mb": "memory/server_peak_rss_mb",
    "device_peak_rss_mb": "memory/device_peak_rss_mb",
    "each_device_peak_rss_mb": "memory_per_device/peak_rss_mb",
    "devices_alive": "devices/alive",
}


# A sweep as a table and as parallel coordinates in TensorBoard: settings, and what came of them.
HPARAMS = (
    *("strategy", "model", "data", "partition", "network", "testbed", "num_devices"),
    *("split_point", "num_micro_batches", "batch_size", "seed"),
)
HPARAM_MEANS = ("epoch_time_s", "server_idle_s", "device_idle_s", "uplink_mbps", "downlink_mbps")
HPARAM_LAST = ("train_loss", "train_accuracy", "val_accuracy", "test_accuracy")


class Sink(Protocol):
    """Receives the rows of one job."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes the row of one epoch; keys are `COLUMNS`."""

    def curve(self, tag: str, values: Sequence[float], start: int) -> None:
        """Takes a part of a curve with a value for each of the steps `start`, `start` + 1, ..."""

    def picture(self, name: str, figure: Any) -> None:
        """Takes a matplotlib figure called "group/name"."""

    def text(self, name: str, text: str, step: int) -> None:
        """Takes lines of text called "group/name"."""

    def close(self) -> None:
        """Writes what is buffered."""


class CsvSink:
    """results.csv; every row is on disk when `add` returns.

    Args:
        path: of the file.
        rows: of earlier epochs.
    """

    def __init__(self, path: Path, rows: Sequence[Row]) -> None:
        earlier = io.StringIO(newline="")
        table = csv.DictWriter(earlier, COLUMNS)
        table.writeheader()
        table.writerows(map(_cells, rows))
        write_whole(path, lambda file: file.write(earlier.getvalue().encode()))
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends one line."""
        self._writer.writerow(_cells(row))
        self._file.flush()

    def curve(self, tag: str, values: Sequence[float], start: int) -> None:
        """Nothing: the table has epochs."""

    def picture(self, name: str, figure: Any) -> None:
        """Nothing: a table holds no pictures."""

    def text(self, name: str, text: str, step: int) -> None:
        """Nothing: it is in the log."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardSink:
    """A scalar per figure and epoch, a curve per device where there is one figure for each.

    What is handed over is in the event file when a call returns, so that a checkpoint never knows more.

    Args:
        directory: of the event files.
        rows: of earlier epochs.
        ends: where what is there of these epochs ends, see `event_files.rewind`; None if it is elsewhere.
    """

    def __init__(self, directory: Path, rows: Sequence[Row], ends: Mapping[str, int] | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        rewind(directory, ends or {})
        self._writer = SummaryWriter(str(directory))
        there = ends["epoch"] if ends else 0
        self._rows: list[Mapping[str, Any]] = [row for row in rows if row["epoch"] < there]
        for row in rows[len(self._rows) :]:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes the figures of one epoch."""
        self._rows.append(row)
        for key, tag in TAGS.items():
            value = row.get(key)
            if isinstance(value, tuple):
                for device, part in enumerate(value, start=1):
                    if part is not None:  # of one that has left
                        self._scalar(f"{tag}/device{device}", part, row["epoch"])
            elif value is not None:
                self._scalar(tag, value, row["epoch"])
        self._writer.flush()

    def curve(self, tag: str, values: Sequence[float], start: int) -> None:
        """Writes a scalar per step."""
        for step, value in enumerate(values, start=start):
            self._scalar(tag, value, step)
        self._writer.flush()

    def picture(self, name: str, figure: Any) -> None:
        """Shows the figure under IMAGES."""
        self._writer.add_figure(name, figure, close=False)
        self._writer.flush()

    def text(self, name: str, text: str, step: int) -> None:
        """Shows the lines as they are under TEXT."""
        self._writer.add_text(name, f"```\n{text}\n```", step)
        self._writer.flush()

    def close(self) -> None:
        """Writes the job's line under HPARAMS and closes the event file."""
        if self._rows:
            last = self._rows[-1]
            settings = {key: _setting(last.get(key)) for key in HPARAMS}
            times = {key: _mean(self._rows, key) for key in HPARAM_MEANS}
            reached = {key: last[key] for key in HPARAM_LAST if last.get(key) is not None}
            figures = {f"hparam/{key}": value for key, value in (times | reached).items()}
            self._writer.add_hparams(settings, figures, run_name=".")  # no folder of its own
        self._writer.close()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)


class PngSink:
    """Pictures as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, row: Mapping[str, Any]) -> None:
        """Nothing: figures of epochs go elsewhere."""

    def curve(self, tag: str, values: Sequence[float], start: int) -> None:
        """Nothing: curves are in TensorBoard."""

    def picture(self, name: str, figure: Any) -> None:
        """Writes name.png."""
        figure.savefig(self._directory / f"{Path(name).name}.png", dpi=120)

    def text(self, name: str, text: str, step: int) -> None:
        """Nothing: it is in the log."""

    def close(self) -> None:
        """Nothing is buffered."""


def _setting(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else str(_cell(value))


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else 0.0


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _cell(value) for key, value in row.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return ";".join("" if part is None else str(_cell(part)) for part in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value
