"""Data is placed on the devices."""

from types import SimpleNamespace

import pytest

from pipar_rpc.base.errors import ConfigError
from pipar_rpc.coordination.deployment import _load_data
from pipar_rpc.plan.node import Node
from tests.support.loops import CPU
from tests.support.own_folders import spec


def test_the_server_compares_the_places(tmp_path, monkeypatch):
    """As a device tells them, with its counts."""
    common = {"data": spec(), "told_classes": spec().classes, "batch_size": 1, "smallest": 1}
    devices = [SimpleNamespace(**common, rank=rank, model=SimpleNamespace(name="")) for rank in (1, 2)]

    def handles(*places):
        told = [((2,), place) for place in places]
        return [
            SimpleNamespace(name=f"device{number}", told=own, num_samples=2)
            for number, own in enumerate(told, start=1)
        ]

    monkeypatch.setattr("pipar_rpc.coordination.deployment.ask", lambda handle, method: handle.told)
    node = Node(tmp_path, "x/{device}", False, CPU)
    apart = handles(("a", "c"), ("b", "c"))
    _load_data(apart, devices, node)
    assert [handle.class_counts for handle in apart] == [(2, 0)] * 2
    with pytest.raises(
        ConfigError, match=r"node.data_root=x/\{device\}: .+: device1 and device2 read the same"
    ):
        _load_data(handles(("a", "c"), ("a", "c")), devices, node)
