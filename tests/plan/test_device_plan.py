"""What a device is given to emulate."""

from pathlib import Path

import pytest

from tests.support.configuration import plan


def taken(scale: float, trace: Path) -> list[float]:
    """Real seconds: of a message over each link, from two starts; latency, jitter, an interval."""
    own = ("testbed.slowdown=5", f"network.trace={trace}", "network.latency_ms=30", "network.jitter_ms=8")
    device = plan(*own, f"testbed.time_scale={scale}").devices[0]
    assert device.speed.time_scale == scale
    found = []
    for link in (device.uplink, device.downlink):
        passes = [[*link.rate.carry(1_000_000, start / scale)] for start in (0, 3)]
        found += [pieces[-1][1] - pieces[0][0] for pieces in passes]
        found += [link.latency_s, link.jitter_s, link.bin_s]
    return found


def test_a_time_scale_keeps_the_ratios_of_all_that_a_link_does(tmp_path):
    (tmp_path / "drop.csv").write_text("time_s,uplink_mbps,downlink_mbps\n0,2,8\n2,1,4\n5,3,9\n")
    real, scaled = (taken(scale, tmp_path / "drop.csv") for scale in (1, 4))
    assert [4 * seconds for seconds in scaled] == pytest.approx(real)
