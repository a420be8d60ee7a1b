"""Bandwidth traces in files."""

import csv
import math
from itertools import pairwise
from pathlib import Path

from pipar_rpc.base.errors import ConfigError, first_line
from pipar_rpc.testbed.link import MIN_MBPS, RateTrace

MIN_PERIOD_S = 0.1
COLUMNS = ("time_s", "uplink_mbps", "downlink_mbps")


def read_trace(path: Path, loop: bool) -> tuple[RateTrace, RateTrace]:
    """Reads the rates of an uplink and a downlink from a CSV file.

    The columns are time_s, uplink_mbps and downlink_mbps; times increase from 0. A looping trace begins again
    at the last row's time, so that row's rates are not used; otherwise they hold for ever.

    Raises:
        ConfigError: one line about what is wrong with the file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            lines = csv.DictReader(file, skipinitialspace=True)
            rows = [tuple(float(row[column]) for column in COLUMNS) for row in lines]
    except OSError as error:
        raise _wrong(path, f"a readable file ({first_line(error)})") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise _wrong(path, f"a CSV file with numbers in the columns {', '.join(COLUMNS)}") from error
    times = tuple(row[0] for row in rows)
    increasing = all(a < b < math.inf for a, b in pairwise(times))
    if len(rows) < 1 + loop or times[0] != 0 or not increasing:
        raise _wrong(path, f"{1 + loop} rows or more, time_s increasing from 0")
    if loop and times[-1] < MIN_PERIOD_S:
        raise _wrong(path, f"at least {MIN_PERIOD_S} s long to begin again")
    period = times[-1] if loop else None
    used = rows[:-1] if loop else rows
    traces = []
    for column, name in enumerate(COLUMNS[1:], start=1):
        rates = tuple(row[column] for row in used)
        usable = all(rate == 0 or MIN_MBPS <= rate < math.inf for rate in rates)
        if not usable or not (any(rates) if loop else rates[-1]):
            where = "somewhere" if loop else "at the end"
            raise _wrong(path, f"{name} >= 0 and finite, and above 0 {where}")
        traces.append(RateTrace(times[: len(used)], rates, period))
    return traces[0], traces[1]


def _wrong(path: Path, allowed: str) -> ConfigError:
    return ConfigError("network.trace", path, allowed)
