"""Namespaces: what is refused."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from launch import agreement, netns, netns_vpn
from pipar_rpc.base.errors import UserError
from tests.support.commands import run_here


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--network=5g"], "--network=5g: must be a preset: did you mean 4g?"),
        (["--", "testbed.time_scale=10"], "testbed.time_scale=10: must be 1 over real links"),
        (["--", "num_servers=2"], "num_servers=2: must be 1: the links of further servers are not shaped"),
        (["--mtu=100"], "--mtu=100: must be 576..65535 bytes"),
        (["--devices=0"], "--devices=0: must be 1..250"),
    ],
)
def test_bad_arguments_are_one_line(arguments, line):
    done = run_here("launch.netns", *arguments)
    assert done.code == 2
    assert done.err.startswith(f"launch.netns: error: {line}")
    assert len(done.err.splitlines()) == 1


def test_a_vpn_needs_its_tools(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="--vpn: wg is needed"):
        netns_vpn.require_tools()
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "wireguard-go" else name)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(UserError, match="--vpn: the kernel has no WireGuard"):
        netns_vpn.require_tools()


@pytest.mark.parametrize("script", [netns, agreement])
def test_without_root_one_clear_line(monkeypatch, script):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", [script.__name__])
    with pytest.raises(UserError, match="network namespaces need root"):
        script.main()
