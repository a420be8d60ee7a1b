"""Traces of bandwidth from files."""

import pytest

from pipar_rpc.base.errors import UserError
from pipar_rpc.testbed.bandwidth_trace import read_trace
from pipar_rpc.testbed.link import RateTrace


def test_a_trace_from_a_spreadsheet(tmp_path):
    text = "\ufefftime_s, uplink_mbps, downlink_mbps\r\n0, 50, 40\r\n"
    uplink, _ = read_trace(write(tmp_path / "trace.csv", text), loop=False)
    assert uplink == RateTrace((0,), (50,))


def write(path, text):
    path.write_text(text)
    return path


def test_traces_are_read_from_files(tmp_path):
    path = write(tmp_path / "drop.csv", "time_s,uplink_mbps,downlink_mbps\n0,50,40\n20.5,5,40\n30,7,0.5\n")
    uplink, downlink = read_trace(path, loop=False)
    assert uplink == RateTrace((0, 20.5, 30), (50, 5, 7))
    assert downlink == RateTrace((0, 20.5, 30), (40, 40, 0.5))
    uplink, _ = read_trace(path, loop=True)
    assert uplink == RateTrace((0, 20.5), (50, 5), period=30)


@pytest.mark.parametrize(
    ("text", "loop", "wrong"),
    [
        (None, False, "a readable file"),
        ("time_s,uplink_mbps\n0,5\n", False, "numbers in the columns time_s, uplink_mbps, downlink_mbps"),
        ("time_s,uplink_mbps,downlink_mbps\n0,5,fast\n", False, "numbers in the columns"),
        ("time_s,uplink_mbps,downlink_mbps\n0,5\n", False, "numbers in the columns"),
        ("time_s,uplink_mbps,downlink_mbps\n", False, "1 rows or more"),
        ("time_s,uplink_mbps,downlink_mbps\n0,5,5\n", True, "2 rows or more"),
        ("time_s,uplink_mbps,downlink_mbps\n1,5,5\n", False, "time_s increasing from 0"),
        ("time_s,uplink_mbps,downlink_mbps\n0,5,5\n2,5,5\n2,6,6\n", False, "time_s increasing from 0"),
        ("time_s,uplink_mbps,downlink_mbps\n0,5,5\n2,5,-1\n", False, "downlink_mbps >= 0"),
        (
            "time_s,uplink_mbps,downlink_mbps\n0,5,5\n2,0,5\n",
            False,
            "uplink_mbps >= 0 and finite, and above 0 at the end",
        ),
        ("time_s,uplink_mbps,downlink_mbps\n0,0,5\n2,9,5\n", True, "above 0 somewhere"),
        ("time_s,uplink_mbps,downlink_mbps\n0,nan,5\n", False, "uplink_mbps >= 0"),
        ("time_s,uplink_mbps,downlink_mbps\n0,1e-9,5\n", False, "uplink_mbps >= 0"),
        ("time_s,uplink_mbps,downlink_mbps\n0,5,5\n1e-6,5,5\n", True, "at least 0.1 s long"),
        ('time_s,uplink_mbps,downlink_mbps\n0,5,"' + "5" * 200_000, False, "numbers in the columns"),
        ("time_s,uplink_mbps,downlink_mbps\n0,5,5\nnan,5,5\n", False, "time_s increasing from 0"),
    ],
)
def test_a_trace_that_makes_no_sense_is_one_line(tmp_path, text, loop, wrong):
    path = tmp_path / "trace.csv"
    if text is not None:
        write(path, text)
    with pytest.raises(UserError) as raised:
        read_trace(path, loop)
    assert str(raised.value).startswith(f"network.trace={path}: must be ")
    assert wrong in str(raised.value)
    assert "\n" not in str(raised.value)
