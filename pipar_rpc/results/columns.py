"""The columns of results.csv, each declared once: results.csv, TensorBoard, tables and docs come from here.

    python -m pipar_rpc.results.columns

prints the table of docs/results.md.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pipar_rpc.results.column import Column, Row
from pipar_rpc.results.learning_columns import CONFIGURED, LEARNING
from pipar_rpc.results.privacy_columns import PRIVACY

__all__ = ["COLUMNS", "Column", "Row", "markdown", "mean"]

_setting = partial(Column, hparam="setting")
_name = partial(_setting, figure=False)
_each = partial(Column, devices="each")
_timed = partial(Column, hparam="mean", summary=True)
_learned = partial(Column, hparam="last", summary=True, digits=4)


def _coding(name: str, whose: str, tag: str) -> Column:
    return Column(name, f"time of {whose} in an iteration; empty without them", "s", tag, devices="mean")


AT_BEGINNING = "at the epoch's beginning; a single value if all have the same"

_DECLARED = (
    Column("job", "number of the job within a multirun, 0 in a single run"),
    Column("epoch", "number of the epoch, from 1", heading="epoch", summary=True, digits=0),
    *(_name(what, CONFIGURED) for what in ("strategy", "model", "data", "partition")),
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
        "epoch time minus the union of the intervals in which any server half or the aggregation computes; "
        "mean over the server ranks",
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
        "largest resident memory of a process that holds devices in this job so far",
        "MB",
        "memory/device_peak_rss_mb",
        devices="max",
    ),
    _each("each_device_peak_rss_mb", "that of each device's process", "MB", "memory_per_device/peak_rss_mb"),
    Column("devices_alive", "number of devices that take part at the epoch's end", tag="devices/alive"),
    Column("devices_lost", "numbers of the devices that have left", figure=False),
    _name(
        "compression",
        "codecs of activations, gradients and models, or the one of all; "
        "a single value if all devices have the same",
        devices="each",
    ),
    Column(
        "iteration_uplink_bytes",
        "activations and labels of an iteration, or what two crossings take up; models are not in it",
        "bytes",
        "network/iteration_uplink_bytes",
        devices="mean",
    ),
    Column(
        "iteration_downlink_bytes",
        "gradients of an iteration, with outputs where there are two crossings; models are not in it",
        "bytes",
        "network/iteration_downlink_bytes",
        devices="mean",
    ),
    Column(
        "compression_ratio",
        "bytes that would have crossed as they are over bytes that crossed, models and labels included; "
        "empty if nothing crossed",
        "",
        "network/compression_ratio",
        hparam="mean",
    ),
    _coding("device_coding_s", "the device's codecs and mechanisms at the cut", tag="time/device_coding_s"),
    _coding("server_coding_s", "its server half's codecs", tag="time/server_coding_s"),
    *LEARNING,
    *PRIVACY,
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
