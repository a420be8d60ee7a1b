"""What rank 0 shows on the terminal: a progress bar during the training, a table at the end."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.results.columns import COLUMNS, Column, mean

MAX_DEVICES_SHOWN = 8
MAX_ROWS_SHOWN = 20


class Progress:
    """Shows a bar per epoch: iterations of the slowest device, their rate, the loss, each device's place.

    It is shown on a terminal only; elsewhere the log has one line per epoch.
    """

    def __init__(self, handles: Sequence[DeviceHandle], num_epochs: int) -> None:
        self._handles, self._num_epochs = handles, num_epochs
        self._bar: tqdm[Any] | None = None

    def start(self, epoch: int) -> None:
        """Begins the bar of an epoch (from 1)."""
        for handle in self._handles:
            handle.port.iteration = 0
        total = max(handle.iterations for handle in self._handles)
        self._bar = self._new_bar(total, f"epoch {epoch}/{self._num_epochs}", "it")

    def start_evaluation(self, epoch: int, samples: int) -> None:
        """Begins the bar of an evaluation of `samples` images."""
        self._bar = self._new_bar(samples, f"evaluate {epoch}/{self._num_epochs}", "img")

    def evaluated(self, samples: int) -> None:
        """Moves the bar of an evaluation on."""
        if self._bar is not None:
            self._bar.update(samples)

    def refresh(self) -> None:
        """Shows the devices' latest reports."""
        if self._bar is None or self._bar.disable:
            return
        losses = [handle.port.loss for handle in self._handles if handle.port.iteration]
        loss = f"{sum(losses) / len(losses):.3f}" if losses else "-"
        self._bar.set_postfix_str(f"loss {loss}, {device_states(self._handles)}", refresh=False)
        self._bar.update(self._slowest() - self._bar.n)

    def stop(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _new_bar(self, total: int, description: str, unit: str) -> "tqdm[Any]":
        self.stop()
        hidden = not sys.stderr.isatty()
        return tqdm(total=total, desc=description, unit=unit, leave=False, dynamic_ncols=True, disable=hidden)

    def _slowest(self) -> int:
        present = [handle for handle in self._handles if handle.present]
        working = [handle.port.iteration for handle in present if handle.port.iteration < handle.iterations]
        return min(working, default=max((handle.iterations for handle in present), default=0))


def device_states(handles: Sequence[DeviceHandle]) -> str:
    """Says how many iterations each device has done, or their range if there are many devices."""
    if len(handles) > MAX_DEVICES_SHOWN:
        done = [handle.port.iteration for handle in handles]
        return f"{len(handles)} devices at {min(done)}..{max(done)}"
    return "devices " + " ".join(map(_state, handles))


def _state(handle: DeviceHandle) -> str:
    if not handle.present:
        return "lost"
    return "done" if handle.port.iteration >= handle.iterations else str(handle.port.iteration)


SUMMARY = tuple(column for column in COLUMNS.values() if column.summary)


def summary_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows of a job, with a line of means over the epochs; long jobs show their last epochs.

    Throughput is the sum over the devices; idle time of devices is the mean.
    """
    shown = [[_cell(row.get(column.name), column) for column in SUMMARY] for row in rows]
    means = ["mean", *(_mean(rows, column) for column in SUMMARY[1:])]
    skipped = len(shown) - MAX_ROWS_SHOWN
    note = [f"({skipped} earlier epochs are in results.csv)"] if skipped > 0 else []
    lines = table([column.heading for column in SUMMARY], [*shown[-MAX_ROWS_SHOWN:], means])
    rate, idle = COLUMNS["uplink_mbps"].devices, COLUMNS["device_idle_s"].devices
    legend = f"Mbit/s: {rate} over the devices; device idle: {idle} over the devices"
    scale = rows[0].get("time_scale", 1)
    scaled = [f"times and rates are emulated: {scale:g} seconds pass in a real one"] if scale != 1 else []
    return "\n".join([*note, *lines, f"{legend}; efficiency: bound / measured", *scaled])


def sweep_table(jobs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Formats the last epoch of each job of a sweep, by the name of the job's folder."""
    columns = SUMMARY[1:]  # all but the epoch
    lines = [
        [name, *(_cell(row.get(column.name), column) for column in columns)] for name, row in jobs.items()
    ]
    return ["last epoch of each job:", *table(["job", *(column.heading for column in columns)], lines)]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Formats right-aligned lines under headings."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    rule = "  ".join("-" * width for width in widths)
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return ["  ".join(h.rjust(w) for h, w in zip(headings, widths, strict=True)), rule, *lines]


def _cell(value: Any, column: Column) -> str:
    return "" if value is None else f"{value:.{column.digits}f}"


def _mean(rows: Sequence[Mapping[str, Any]], column: Column) -> str:
    """Formats the mean of a column; nothing for accuracies and losses, of which the last epoch's count."""
    return "" if column.hparam == "last" else _cell(mean(rows, column.name), column)
