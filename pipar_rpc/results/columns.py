"""The columns of results.csv, each declared once: results.csv, TensorBoard, tables and docs come from here.

    python -m pipar_rpc.results.columns

prints the table of docs/results.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

Row = dict[str, Any]  # an epoch's values by the names of columns; None where a figure does not exist


@dataclass(frozen=True)
class Column:
    """One value of an epoch.

    Attributes:
        name: heading in results.csv.
        meaning: definition in a few words, as Markdown.
        unit: unit or range; times and rates are emulated ones.
        tag: name of the curve in TensorBoard, which groups curves by what stands before the slash.
        devices: relation to single devices: sum, mean or maximum over them, or one value for each, which is
            a tuple; empty for a value that is not about devices.
        heading: short heading in the tables of the terminal and of the report.
        summary: whether the terminal's table has the column.
        digits: digits after the point in that table.
        hparam: role in the line that a job has under HPARAMS in TensorBoard: a setting, or a figure, which is
            the mean over the epochs or the last epoch's value.
        figure: whether the value is a number that can be the objective of a sweep.
    """

    name: str
    meaning: str
    unit: str = ""
    tag: str = ""
    devices: Literal["", "sum", "mean", "max", "each"] = ""
    heading: str = ""
    summary: bool = False
    digits: int = 2
    hparam: Literal["", "setting", "mean", "last"] = ""
    figure: bool = True


_setting = partial(Column, hparam="setting")
_name = partial(_setting, figure=False)
_each = partial(Column, devices="each")
_timed = partial(Column, hparam="mean", summary=True)
_learned = partial(Column, hparam="last", summary=True, digits=4)

CONFIGURED = "name from the configuration"
AT_BEGINNING = "at the epoch's beginning; a single value if all have the same"

_DECLARED = (
    Column("job", "number of the job within a multirun, 0 in a single run"),
    Column("epoch", "number of the epoch, from 1", heading="epoch", summary=True, digits=0),
    _name("strategy", CONFIGURED),
    _name("model", CONFIGURED),
    _name("data", CONFIGURED),
    _name("partition", CONFIGURED),
    _name("network", f"{CONFIGURED}, or the trace's name where there is one"),
    _name("testbed", f"{CONFIGURED}, or the profile's name where there is one"),
    _setting("num_devices", "K"),
    _setting("split_point", f"P {AT_BEGINNING}", tag="pipeline/split_point", devices="each"),
    _setting("num_micro_batches", f"N {AT_BEGINNING}", tag="pipeline/num_micro_batches", devices="each"),
    _setting("batch_size", "B; a single value if all have the same", "samples", devices="each"),
    Column("iterations", "iterations of the epoch", devices="max"),
    _setting("seed", "seed of the experiment"),
    Column("time_scale", "emulated seconds in a real one"),
    _timed(
        "epoch_time_s",
        "rank 0's time from the start of the first round to the end of the last aggregation; "
        "evaluation is not in it",
        "s",
        "time/epoch_s",
        heading="time s",
    ),
    Column(
        "iteration_time_s",
        "the device's time in training rounds per iteration",
        "s",
        "time/iteration_s",
        devices="mean",
        heading="iteration s",
    ),
    _timed(
        "server_idle_s",
        "epoch time minus the union of the intervals in which any server half or the aggregation computes",
        "s",
        "idle/server_s",
        heading="server idle s",
    ),
    _timed(
        "device_idle_s",
        "epoch time minus the device's compute time",
        "s",
        "idle/device_s",
        devices="mean",
        heading="device idle s",
    ),
    Column("uplink_bytes", "payload from the device", "bytes", "network/uplink_bytes", devices="sum"),
    Column("downlink_bytes", "payload to the device", "bytes", "network/downlink_bytes", devices="sum"),
    _timed(
        "uplink_mbps",
        "`uplink_bytes` * 8 / epoch time",
        "Mbit/s",
        "network/uplink_mbps",
        devices="sum",
        heading="up Mbit/s",
    ),
    _timed(
        "downlink_mbps",
        "`downlink_bytes` * 8 / epoch time",
        "Mbit/s",
        "network/downlink_mbps",
        devices="sum",
        heading="down Mbit/s",
    ),
    _each(
        "device_uplink_mbps", "the device's part of `uplink_mbps`", "Mbit/s", "network_per_device/uplink_mbps"
    ),
    _each(
        "device_downlink_mbps",
        "the device's part of `downlink_mbps`",
        "Mbit/s",
        "network_per_device/downlink_mbps",
    ),
    Column(
        "bound_s",
        "the least that an iteration can take with the measured stage times; "
        "empty over real links, which are not timed",
        "s",
        "time/iteration_bound_s",
        devices="max",
    ),
    Column(
        "efficiency",
        "`bound_s` over the measured time of an iteration, of the device where the bound is largest",
        "0..1",
        "time/efficiency",
        heading="efficiency",
        summary=True,
    ),
    _learned("train_loss", "mean over the epoch's samples, in training", "", "train/loss", heading="loss"),
    _learned("train_accuracy", "accuracy in training", "0..1", "accuracy/train", heading="train acc"),
    _learned(
        "val_accuracy",
        "accuracy of the averaged network on the validation samples",
        "0..1",
        "accuracy/val",
        heading="val acc",
    ),
    _learned(
        "test_accuracy",
        "accuracy of the averaged network on the test samples",
        "0..1",
        "accuracy/test",
        heading="test acc",
    ),
    _each(
        "device_val_accuracy",
        "accuracy of the device's own network on the validation samples, before the average",
        "0..1",
        "accuracy_per_device/val",
    ),
    Column(
        "overlap",
        "how many of the device, its two links and its server half work at a time; of recorded epochs only",
        "1..4",
        "time/overlap",
        devices="mean",
        heading="overlap",
    ),
    Column(
        "training_time_s", "epoch time until the last device has trained; in the rest models are moved", "s"
    ),
    Column("model_bytes", "models from the device; `uplink_bytes` has them too", "bytes", devices="sum"),
    Column(
        "predicted_iteration_s",
        "what the selector predicted for `iteration_time_s`",
        "s",
        "time/iteration_predicted_s",
        devices="mean",
    ),
    _each("link_uplink_mbps", "uplink's rate that the selector reckoned with", "Mbit/s", "links/uplink_mbps"),
    _each(
        "link_downlink_mbps",
        "downlink's rate that the selector reckoned with",
        "Mbit/s",
        "links/downlink_mbps",
    ),
    Column(
        "server_peak_rss_mb",
        "largest resident memory of rank 0 in this job so far",
        "MB",
        "memory/server_peak_rss_mb",
    ),
    Column(
        "device_peak_rss_mb",
        "largest resident memory of the device's process in this job so far",
        "MB",
        "memory/device_peak_rss_mb",
        devices="max",
    ),
    _each("each_device_peak_rss_mb", "that of each device", "MB", "memory_per_device/peak_rss_mb"),
    Column("devices_alive", "number of devices that take part at the epoch's end", tag="devices/alive"),
    Column("devices_lost", "numbers of the devices that have left", figure=False),
)

COLUMNS: Mapping[str, Column] = {column.name: column for column in _DECLARED}  # in the order of results.csv


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Returns the mean of a column over the epochs that have a figure; None if none has."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def markdown() -> list[str]:
    """Returns the columns as the lines of a Markdown table."""
    lines = ["| column | unit | devices | meaning | TensorBoard |", "|---|---|---|---|---|"]
    for column in COLUMNS.values():
        tag = f"`{column.tag}`" if column.tag else ""
        cells = (f"`{column.name}`", column.unit, column.devices, column.meaning, tag)
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return lines


if __name__ == "__main__":
    print("\n".join(markdown()))
