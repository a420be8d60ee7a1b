"""launch.machines from `plan` to `down`, on namespaces that stand for a server and four boards.

Not part of an ordinary run, because it takes minutes: PIPAR_TEST_MACHINES=1, root, and the packages that a
skipped run names.
"""

import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from launch import netns
from tests.support import known_activation
from tests.support.hosts import inside, needs_hosts, python_of, site
from tests.support.light import light_environment
from tests.support.overrides import SMALL
from tests.support.processes import wait_until

pytestmark = needs_hosts

NUM_DEVICES = 5  # on four machines
JOB = tuple(option for option in SMALL if not option.startswith(("network=", "epochs=")))
LONG = (*JOB, "epochs=500", "aggregation.every=1", "data.train_size=300")
KNOWN = ("model=custom", "model._target_=known_activation.build", "pipeline.split_point=1")
KNOWN_ACTIVATION = Path(known_activation.__file__)
SCAN = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reaches(place):
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        return True
    except OSError:
        return False
with ThreadPoolExecutor(32) as pool:
    print(*(place for place, open in zip(sys.argv[1:], pool.map(reaches, sys.argv[1:])) if open))
"""
RECORD = """
import socket, sys
everything = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
everything.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.write(everything.recv(65536))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """All machines, after `plan`, `check` and `up`."""
    folder = tmp_path_factory.mktemp("machines")
    light = light_environment(folder / "light")
    with site(folder, 5) as made:
        machines = [
            {"address": host.address, "folder": str(host.folder), "user": "root", "python": str(light)}
            for host in made.machines
        ]
        machines[0]["python"] = str(python_of(folder))
        machines[4]["ranks"] = 2
        machines[1]["overrides"] = {"batch_size": 4}
        inventory = folder / "machines.yaml"
        text = {"server": machines[0], "devices": machines[1:], "ssh": {**made.ssh, "timeout_s": 60}}
        inventory.write_text(yaml.safe_dump(text))
        made.run(inventory, "plan")
        checked = made.run(inventory, "check")
        print(checked)
        rows = [line.split() for line in checked.splitlines() if re.match(r" *machine\d", line)]
        assert [len([float(cell) > 0 for cell in row[-3:]]) for row in rows] == [3] * 4
        assert "nothing to mend" in checked
        assert not list(folder.glob("host*/plan"))
        assert "5 machines are up" in made.run(inventory, "up")
        secrets = [_private_key(path) for path in sorted(folder.glob("machines_plan/*/pipar0.conf"))]
        assert sorted(map(_private_key, folder.glob("host*/plan/pipar0.conf"))) == sorted(secrets)
        yield made, inventory
        made.run(inventory, "down")
        logs = [path.read_text() for path in [*folder.rglob("*.log"), *folder.rglob("*.yaml")]]
        assert len(logs) > len(made.machines)
        assert not [secret for secret in secrets if any(secret in text for text in [checked, *logs])]
        kept = {path.name for host in made.machines for path in host.folder.glob("*")}
        assert not kept & {"plan", "plan.new", "state"}
        for host in made.machines:
            commands = [Path("/proc", pid, "cmdline").read_text() for pid in pids(host)]
            assert all("sshd" in command for command in commands), commands
            assert "pipar0" not in inside(host.name, "ip", "link")
            assert inside(host.name, "nft", "list", "tables") == ""


def _private_key(path):
    (line,) = re.findall("^PrivateKey = (.+)$", path.read_text(), flags=re.MULTILINE)
    return line


def pids(host):
    return netns.run("ip", "netns", "pids", host.name).split()


@contextmanager
def recording(switch, path):
    """Writes to a file all that crosses a switch."""
    command = ["ip", "netns", "exec", switch, sys.executable, "-I", "-c", RECORD, str(path)]
    process = subprocess.Popen(command)
    try:
        assert wait_until(path.exists, 20)
        yield
    finally:
        process.kill()
        process.wait()


def same(first, second):
    one, two = (torch.load(path, weights_only=True) for path in (first, second))
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_the_weights_are_those_of_one_machine(place, processes):
    made, inventory = place
    out = made.run(inventory, "run", *JOB, "epochs=2", "hydra.run.dir=run")
    assert re.search(r"^server   \| .*results: ", out, flags=re.MULTILINE)
    overrides = ("devices.overrides.1.batch_size=4", "network=none", "epochs=2", "hydra.run.dir=run")
    done = processes.training(1 + NUM_DEVICES, *JOB, *overrides)
    assert done.code == 0, done.err
    assert same(made.machines[0].folder / "run/model.pt", processes.directory / "run/model.pt")


def test_whoever_is_not_in_the_vpn_reaches_and_reads_nothing(place, tmp_path):
    made, inventory = place
    recorded = tmp_path / "with"
    for host in made.machines:
        shutil.copy(KNOWN_ACTIVATION, host.folder)
    with recording(made.switch, recorded):
        run = made.start(inventory, "run", *LONG, *KNOWN, "hydra.run.dir=known")
        assert wait_until(
            lambda: list(made.machines[0].folder.glob("known/checkpoints/round_000003.pt")), 250
        )
        _outsider_reaches_nothing(made)
        run.send_signal(signal.SIGINT)
        assert made.processes.finish(run, 120).code == 130
    assert recorded.stat().st_size > 1e6
    assert known_activation.PATTERN * 8 not in recorded.read_bytes()


def _outsider_reaches_nothing(made):
    places = []
    for number, host in enumerate(made.machines, start=1):
        ports = host.ports()
        assert len(ports) >= 1 + (number == 5), ports
        for address in (host.address, f"10.9.0.{number}"):
            places += [f"{address}:{port}" for port in ports]
        inside(made.outsider.name, "ip", "route", "replace", f"10.9.0.{number}", "via", host.address)
    server, store = made.machines[0], f"{made.machines[0].address}:29500"
    assert store in places
    assert scan(made, places) == []
    rules = inside(server.name, "nft", "list", "ruleset")
    inside(server.name, "nft", "flush", "ruleset")
    reached = scan(made, places)  # which it is the firewall that prevents
    assert store in reached
    assert any(found.startswith("10.9.0.1:") and not found.endswith(":29500") for found in reached)
    saved = server.folder / "plan" / "pipar0.nft"
    inside(server.name, "nft", "-f", str(saved))
    assert inside(server.name, "nft", "list", "ruleset") == rules


def scan(made, places):
    return inside(made.outsider.name, sys.executable, "-I", "-c", SCAN, *places).split()


def test_without_the_vpn_everybody_on_the_way_reads(processes):
    """So that the recording above can be believed."""
    shutil.copy(KNOWN_ACTIVATION, processes.directory)
    job = (*JOB, *KNOWN, "epochs=3")
    command = [sys.executable, "-m", "launch.netns", "--devices=1", "--network=wifi", "--", *job]
    run = processes.start(command)
    switch = f"pipar-{run.pid}-switch"
    assert wait_until(lambda: switch in netns.namespaces(), 20)
    recorded = processes.directory / "without"
    with recording(switch, recorded):
        assert processes.finish(run, 200).code == 0
    assert known_activation.PATTERN * 8 in recorded.read_bytes()


def test_a_board_that_loses_its_power_comes_back(place):
    made, inventory = place
    host, job = made.machines[2], made.machines[0].folder / "long"
    run = made.start(inventory, "run", *LONG, "fault.min_deadline_s=3", "hydra.run.dir=long")
    assert wait_until(lambda: list(job.glob("checkpoints/round_000003.pt")), 250)
    host.cut()
    log = job / "pipar_rpc.log"
    assert wait_until(lambda: "device2 leaves" in log.read_text()), log.read_text()
    host.start()
    plan = host.folder / "plan"  # what systemd does at the start of a machine
    subprocess.run(
        [*ssh(made, host), f"sh {plan}/up.sh && sh {plan}/start.sh again"], check=True, capture_output=True
    )
    rejoined = re.compile(r"resumed from")
    assert wait_until(lambda: rejoined.search(log.read_text()), 150), log.read_text()
    size = len(log.read_text())
    assert wait_until(lambda: len(log.read_text()) > size + 200, 60)
    run.send_signal(signal.SIGINT)
    done = made.processes.finish(run, 120)
    assert done.code == 130
    assert "machine2 | -- this machine cannot be reached; waiting 600 s for it to come back" in done.out
    assert "some ranks may still run" not in done.err
    for host in made.machines:
        assert host.ports() == []


def ssh(made, host):
    known, key = made.ssh["known_hosts"], made.ssh["identity"]
    options = ["-o", f"UserKnownHostsFile={known}", "-i", key, f"root@{host.address}"]
    return ["ip", "netns", "exec", made.desk.name, "ssh", *options]


def test_a_host_key_that_is_not_known_is_refused(place, tmp_path):
    made, inventory = place
    text = yaml.safe_load(inventory.read_text())
    (tmp_path / "known_hosts").touch()
    text["ssh"]["known_hosts"] = str(tmp_path / "known_hosts")
    other = tmp_path / "machines.yaml"
    other.write_text(yaml.safe_dump(text))
    done = made.processes.finish(made.start(other, "down"), 120)
    assert done.code == 2
    line = "server: end the ranks: root@10.77.0.1, port 22, cannot be reached: "
    assert line in done.err
    assert "Host key verification failed" in done.err
    assert "ssh-keyscan -p 22 10.77.0.1" in done.err
