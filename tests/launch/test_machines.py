"""Machines: the inventory, the plan, and what is said of a machine."""

import base64
import re
import shutil
import stat
import subprocess
import textwrap
from pathlib import Path

import pytest

from launch.machines import check, keys
from launch.machines.inventory import read
from launch.machines.remote import command
from pipar_rpc.base.errors import UserError
from tests.support import inventories
from tests.support.commands import run_here
from tests.support.processes import ROOT

PAGE = ROOT / "docs/machines.md"
DER = bytes.fromhex("302e020100300506032b656e04220420")  # of a private X25519 key, which follows (RFC 8410)


@pytest.fixture
def planned(tmp_path):
    """The plan of the example, and what `plan` has said."""
    done = run_here("launch.machines", inventories.write(tmp_path, inventories.example()), "plan")
    assert done.code == 0, done.err
    return tmp_path / "machines_plan", done


def altered(path, value):
    """The example with another value; `path` are the keys that lead to it."""
    whole = inventories.example()
    part = whole
    for key in path[:-1]:
        part = part.setdefault(key, {}) if isinstance(key, str) else part[key]
    part[path[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("devices", 0, "adress"), "1", "devices[0].adress: no such key: did you mean address?"),
        (("vpn", "prot"), 1, "vpn.prot: no such key: did you mean port?"),
        (("sever",), {}, "sever: no such key: did you mean server?"),
        (("devices",), [], "devices=[]: must be a list of at least one machine"),
        (
            ("devices", 0, "address"),
            "-oProxyCommand=x",
            "devices[0].address=-oProxyCommand=x: must be a hos",
        ),
        (
            ("devices", 1, "address"),
            "192.168.7.11",
            "devices[1].address=192.168.7.11: must be another on",
        ),
        (("devices", 1, "name"), "board", "devices[1].name=board: must be another one than devices[0] has"),
        (("defaults", "user"), "", "devices[0].user=null: must be the user's name on the machine"),
        (("defaults", "folder"), "pipar", "server.folder=pipar: must be an absolute path without spaces"),
        (("devices", 0, "ranks"), 0, "devices[0].ranks=0: must be >= 1"),
        (
            ("devices", 0, "ranks"),
            "two",
            "devices[0].ranks: Value 'two' of type 'str' could not",
        ),
        (
            ("devices", 0, "node", "device"),
            "gpu",
            "devices[0].node.device=gpu: must be auto, cpu, cuda",
        ),
        (("devices", 0, "node", "interface"), "eth0", "devices[0].node.interface=eth0: must be left out"),
        (
            ("devices", 1, "overrides"),
            [{}],
            "devices[1].overrides=[{}]: must be settings for all devices",
        ),
        (("server", "overrides"), {"batch_size": 1}, "server.overrides=...: must be left out"),
        (
            ("vpn", "subnet"),
            "8.8.8.0/24",
            "vpn.subnet=8.8.8.0/24: must be a private IPv4 network",
        ),
        (("vpn", "subnet"), "10.9.0.0/30", "vpn.subnet=10.9.0.0/30: must be a private IPv4 network with roo"),
        (("vpn", "interface"), "wg 0", "vpn.interface=wg 0: must be up to 13 letters"),
        (("ssh", "known_hosts"), "/nowhere", "ssh.known_hosts=/nowhere: must be an existing file"),
        (("store_port",), 80, "store_port=80: must be 1024..65535"),
        (("store_port",), 2222, "store_port=2222: must be another port than devices[2].ssh_port"),
        (("vpn", "subnet"), "192.168.7.0/24", "vpn.subnet=192.168.7.0/24: must be a network that devices[0]"),
        (("vpn", "subnet"), "240.0.0.0/8", "vpn.subnet=240.0.0.0/8: must be a private IPv4 network"),
        (
            ("vpn", "endpoint"),
            "1.2.3.4:51820",
            "vpn.endpoint=1.2.3.4:51820: must be a host's name or address",
        ),
        (("ssh", "timeout_s"), float("inf"), "ssh.timeout_s=inf: must be 1..86400 seconds"),
        (
            ("defaults", "python"),
            "venv/bin/python",
            "server.python=venv/bin/python: must be a command, or an",
        ),
        (("devices",), {"a": 1}, "the inventory: "),
    ],
)
def test_what_an_inventory_must_say_is_one_line(tmp_path, path, value, line):
    done = run_here("launch.machines", inventories.write(tmp_path, altered(path, value)), "plan")
    assert done.code == 2
    assert done.err.startswith(f"launch.machines: error: {line}"), done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "machines_plan").exists()


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (
            ("devices", 0, "overrides"),
            {"epochs": 2},
            "devices.overrides.1.epochs: no such key for a sing",
        ),
        (("devices", 0, "overrides"), {"batch_size": 0}, "batch_size=0: must be >= 1"),
    ],
)
def test_settings_of_devices_are_checked_by_the_plan(tmp_path, path, value, line):
    done = run_here("launch.machines", inventories.write(tmp_path, altered(path, value)), "plan")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert line in done.err
    assert not (tmp_path / "machines_plan").exists()


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    assert "no such file" in run_here("launch.machines", tmp_path / "none.yaml", "plan").err
    (tmp_path / "broken.yaml").write_text("server: {")
    (tmp_path / "latin.yaml").write_bytes("server: jürgen".encode("latin-1"))
    for name in ("broken.yaml", "latin.yaml"):
        done = run_here("launch.machines", tmp_path / name, "plan")
        assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_machines_have_their_place_and_devices_their_numbers(tmp_path):
    inventory = read(inventories.write(tmp_path, inventories.example()))
    places = [(machine.name, machine.number, machine.vpn_address) for machine in inventory.machines]
    assert places == [
        ("server", 0, "10.9.0.1"),
        ("board", 1, "10.9.0.2"),
        ("jetson", 2, "10.9.0.3"),
        ("machine3", 3, "10.9.0.4"),
    ]
    assert inventory.overrides == [
        "devices.overrides.2.pipeline.split_point=2",
        "devices.overrides.3.batch_size=50",
        "devices.overrides.4.pipeline.num_micro_batches=4",
    ]


def test_the_inventory_of_the_page_is_one(tmp_path):
    section = re.split("^## The inventory", PAGE.read_text(), flags=re.MULTILINE)[1]
    block = re.search(r"(?:^    .*\n)+", section, flags=re.MULTILINE)
    path = tmp_path / "machines.yaml"
    path.write_text(textwrap.dedent(block[0]))
    assert run_here("launch.machines", path, "plan").code == 0


def test_ssh_checks_host_keys_and_asks_nothing(tmp_path):
    inventory = read(inventories.write(tmp_path, inventories.example()))
    words = command(inventory.machines[3], inventory.ssh, "true")
    assert {"StrictHostKeyChecking=yes", "BatchMode=yes"} <= set(words)
    assert words[-4:] == ["-p", "2222", "pi@192.168.7.13", "true"]


def private_keys(plan):
    found = {}
    for path in plan.glob("*/pipar0.conf"):
        (line,) = (line for line in path.read_text().splitlines() if line.startswith("PrivateKey"))
        found[path.parent.name] = line.partition(" = ")[2]
    return found


def test_private_keys_are_in_no_other_file_and_no_output(planned):
    plan, done = planned
    secrets = private_keys(plan)
    assert len(set(secrets.values())) == 4
    for path in filter(Path.is_file, plan.rglob("*")):
        for name, secret in secrets.items():
            assert (secret in path.read_text()) == (path == plan / name / "pipar0.conf"), path
    assert not any(secret in done.out + done.err for secret in secrets.values())
    for name in secrets:
        assert stat.S_IMODE((plan / name / "pipar0.conf").stat().st_mode) == 0o600
        assert stat.S_IMODE((plan / name).stat().st_mode) == 0o700
    assert stat.S_IMODE(plan.stat().st_mode) == 0o700
    assert (plan / ".gitignore").read_text() == "*\n"


def test_a_new_plan_has_new_keys(planned):
    plan, _ = planned
    before = set(private_keys(plan).values())
    assert run_here("launch.machines", plan.with_name("machines.yaml"), "plan").code == 0
    assert not before & set(private_keys(plan).values())
    assert {path.name for path in plan.parent.iterdir()} == {"machines.yaml", "machines_plan"}


def test_the_vpn_is_a_star_around_the_server(planned):
    plan, _ = planned
    server, board = ((plan / name / "pipar0.conf").read_text() for name in ("server", "board"))
    assert "Address = 10.9.0.1/24\nMTU = 1420\nListenPort = 51820\n" in server
    assert [f"AllowedIPs = 10.9.0.{k}/32" in server for k in (2, 3, 4)] == [True] * 3
    assert "Address = 10.9.0.2/24\nMTU = 1420\n" in board
    assert "AllowedIPs = 10.9.0.0/24\nEndpoint = train.example.org:51820\n" in board
    assert board.count("[Peer]") == 1
    public = {line for line in server.splitlines() if line.startswith("PublicKey")}
    assert len(public) == 3
    assert "# server" in board


def test_only_the_vpn_reaches_what_listens(planned):
    plan, _ = planned
    rules = (plan / "board" / "pipar0.nft").read_text()
    lines = [line.strip() for line in rules.splitlines()]
    accept, *drops = (line for line in lines if line.endswith(("accept", "drop")))
    assert accept == 'iifname { "lo", "pipar0" } accept'
    assert drops[:2] == ["ip daddr 10.9.0.0/24 drop", "tcp dport 29500 drop"]


def test_the_command_of_each_machine(planned):
    plan, _ = planned
    scripts = {path.parent.name: path.read_text().replace(" \\\n   ", "") for path in plan.glob("*/run.sh")}
    run = "exec /opt/pipar/venv/bin/python -m torch.distributed.run --nnodes=4 --node-rank="
    meet = "--master-addr=10.9.0.1 --master-port=29500 --max-restarts=10 -m pipar_rpc"
    node = "node.interface=pipar0 node.trusted_network=true"
    assert (
        f"{run}0 --nproc-per-node=1 {meet} {node} node.threads=2 network=none num_servers=1 devi"
        in (scripts["server"])
    )
    assert "devices.overrides.3.batch_size=50" in scripts["server"]
    assert f"{run}1 --nproc-per-node=1 {meet} {node} node.data_root=/data node.device=cpu" in scripts["board"]
    assert f"{run}2 --nproc-per-node=2 {meet} {node} 'node.data_root=/data/{{device}}'" in scripts["jetson"]
    assert "devices.overrides" not in scripts["board"]


def test_a_device_machine_is_told_the_light_way(planned):
    plan, _ = planned
    assert (plan / "board" / "device-requirements.txt").is_file()
    assert not (plan / "server" / "device-requirements.txt").exists()
    assert "pip install --no-deps" in (plan / "board" / "install.sh").read_text()


def test_scripts_are_sound(planned):
    plan, _ = planned
    scripts = list(plan.glob("*/*.sh"))
    assert len(scripts) == 4 * 12
    for path in scripts:
        subprocess.run(["sh", "-n", str(path)], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(planned):
    plan, _ = planned
    for name in ("server", "board"):
        units = [str(plan / name / f"pipar0{kind}.service") for kind in ("", "-vpn")]
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
        )
        ours = [line for line in (done.stdout + done.stderr).splitlines() if "pipar0" in line]
        assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("tool", ["wg", "openssl"])
def test_a_public_key_is_that_of_its_private_one(monkeypatch, tool):
    if shutil.which(tool) is None or shutil.which("openssl") is None:
        pytest.skip(f"needs {tool} and openssl")
    there = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: there(name) if name == tool else None)
    pair = keys.new_pair()
    private = base64.b64decode(pair.private)
    assert (len(private), private[0] & 7, private[-1] >> 6) == (32, 0, 1)
    public = ["openssl", "pkey", "-inform", "DER", "-pubout", "-outform", "DER"]
    done = subprocess.run(public, input=DER + private, capture_output=True, check=True)
    assert base64.b64decode(pair.public) == done.stdout[-32:]
    assert pair.private not in repr(pair)


def test_without_anything_to_make_keys_one_line(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="wg or openssl is needed"):
        keys.new_pair()


def finding(machine, **other):
    probed = {"python": "3.11", "torch": "2.14.0", "pipar_rpc": "0.1.0", "missing": [], "tools": []}
    probed |= {"root": True, "disk_mb": 9000.0, "memory_mb": 2000.0, "data": True, "up": True}
    clock_s = other.pop("clock_s", 0.0)
    return check.Finding(machine, probed | other, clock_s)


def test_what_to_mend(tmp_path):
    server, board, jetson, _ = read(inventories.write(tmp_path, inventories.example())).machines
    good = finding(server)
    assert check._to_mend(good, good) == check._to_mend(finding(board), good) == []
    bad = finding(
        jetson,
        **{"torch": "2.13.0", "missing": ["psutil"], "tools": ["nft"], "root": False, "disk_mb": 10.0},
        **{"memory_mb": 900.0, "data": False, "clock_s": -40.0},
    )
    lines = check._to_mend(bad, good)
    starts = [
        "psutil missing in /opt/pipar/venv/bin/python",
        "torch 2.13.0, but 2.14.0 on the server",
        "nft missing: apt-get install",
        "pi must be root or allowed",
        "10 MB of disk left in /opt/pipar",
        "900 MB of memory left, and it takes 1000 MB for 2 rank(s)",
        "the clock is -40 s from ours",
        "node.data_root=/data/{device}: no such folder",
    ]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 8, lines
