"""launch.machines from `plan` to `down`, on namespaces that stand for a server and four boards.

Not part of an ordinary run, because it takes minutes: PIPAR_TEST_MACHINES=1, root, and the packages that a
skipped run names.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from launch import netns
from tests.support import known_activation
from tests.support.booted import Booted, needs_booting
from tests.support.hosts import Host, inside, needs_hosts, python_of, site
from tests.support.light import light_environment
from tests.support.outsider import reaches_nothing, recording
from tests.support.overrides import SMALL
from tests.support.processes import wait_until

pytestmark = needs_hosts

NUM_DEVICES = 5  # on four machines
JOB = tuple(option for option in SMALL if not option.startswith(("network=", "epochs=")))
LONG = (*JOB, "epochs=500", "aggregation.every=1", "data.train_size=300")
KNOWN = ("model=custom", "model._target_=known_activation.build", "pipeline.split_point=1")
KNOWN_ACTIVATION = Path(known_activation.__file__)
OURS = re.compile(r"plan/|torch|pipar_rpc|wireguard")  # in the command of a process


@pytest.fixture(scope="module", params=[Host, pytest.param(Booted, marks=needs_booting)])
def place(request, tmp_path_factory):
    """All machines, after `plan`, `check` and `up`: some with loop.sh, then some with systemd."""
    folder = tmp_path_factory.mktemp("machines")
    light = light_environment(folder / "light")
    with site(folder, 5, request.param) as made:
        machines = [
            {"address": host.address, "folder": str(host.folder), "user": host.user, "python": str(light)}
            for host in made.machines
        ]
        machines[0] |= {"user": "root", "python": str(python_of(folder))}
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
            commands = [Path("/proc", pid, "cmdline").read_text() for pid in host.pids()]
            assert not [command for command in commands if OURS.search(command)], commands
            assert not host.units()
            assert "pipar0" not in inside(host.name, "ip", "link")
            assert inside(host.name, "nft", "list", "tables") == ""


def _private_key(path):
    (line,) = re.findall("^PrivateKey = (.+)$", path.read_text(), flags=re.MULTILINE)
    return line


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


def begun(place, folder, *settings):
    """A long training whose third round is done."""
    made, inventory = place
    run = made.start(inventory, "run", *LONG, *settings, f"hydra.run.dir={folder}")
    assert wait_until((made.machines[0].folder / folder / "checkpoints/round_000003.pt").exists, 250)
    return run


def test_whoever_is_not_in_the_vpn_reaches_and_reads_nothing(place, tmp_path):
    made, _ = place
    recorded = tmp_path / "with"
    for host in made.machines:
        shutil.copy(KNOWN_ACTIVATION, host.folder)
    with recording(made.switch, recorded):
        run = begun(place, "known", *KNOWN)
        reaches_nothing(made)
        run.send_signal(signal.SIGINT)
        assert made.processes.finish(run, 120).code == 130
    assert recorded.stat().st_size > 1e6
    assert known_activation.PATTERN * 8 not in recorded.read_bytes()


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
    run = begun(place, "long", "fault.min_deadline_s=10")
    host.cut()
    log = job / "pipar_rpc.log"
    left = re.compile(r"device2\b.* leaves? ")  # on a slow day together with others
    assert wait_until(lambda: left.search(log.read_text())), log.read_text()
    host.start()
    if not host.has_systemd:
        again = f"sh {host.folder}/plan/up.sh && sh {host.folder}/plan/start.sh again"
        subprocess.run([*ssh(made, host), again], check=True, capture_output=True)
    goes_on(log)
    lost = "machine2 | -- this machine cannot be reached; waiting 600 s for it to come back"
    assert lost in interrupt(made, run).out
    assert "the training was stopped" in made.processes.finish(made.start(inventory, "logs"), 60).err


def reboot(made):
    made.machines[0].reboot()


def reboot_board(made):
    made.machines[2].reboot()


def cut_server(made):
    made.machines[0].cut()
    time.sleep(20)  # in which the others must not give up
    made.machines[0].start()


def cut_all(made):
    for host in made.machines:
        host.cut()
    for host in reversed(made.machines):
        host.start()


@pytest.mark.parametrize(
    ("happens", "name"),
    [(reboot, "server"), (reboot_board, "machine2"), (cut_server, "server"), (cut_all, "server")],
)
def test_machines_that_reboot_or_lose_their_power_come_back(place, happens, name):
    made, _ = place
    server, folder = made.machines[0], happens.__name__
    if not server.has_systemd:
        pytest.skip("needs systemd, which starts torchrun again")
    run = begun(place, folder, "fault.min_deadline_s=10")
    happens(made)
    goes_on(server.folder / folder / "pipar_rpc.log")
    out = interrupt(made, run).out
    assert f"{name:8} | -- this machine cannot be reached; waiting 600 s for it to come back" in out
    assert "its ranks do not run" not in out


def test_what_is_done_is_not_begun_again_after_a_reboot(place):
    """Though whoever has started it was lost before its end."""
    made, inventory = place
    server = made.machines[0]
    if not server.has_systemd:
        pytest.skip("needs systemd, which starts the ranks again")
    run = made.start(inventory, "run", *JOB, "epochs=20", "hydra.run.dir=done")
    assert wait_until((server.folder / "done/pipar_rpc.log").exists, 250)
    made.processes.kill(run)
    ended = [host.folder / "state/ended" for host in made.machines]
    assert wait_until(lambda: all(path.exists() for path in ended), 250)
    server.reboot()
    made.machines[1].reboot()
    assert "3/3" in made.run(inventory, "run", *JOB, "epochs=3", "hydra.run.dir=next")


def goes_on(log):
    """Waits until a training has been resumed and has done some more epochs."""
    assert wait_until(lambda: "resumed from" in log.read_text(), 300), log.read_text()
    size = len(log.read_text())
    assert wait_until(lambda: len(log.read_text()) > size + 200, 60)


def interrupt(made, run):
    """Ctrl-C, which ends the ranks of all machines."""
    run.send_signal(signal.SIGINT)
    done = made.processes.finish(run, 120)
    assert done.code == 130
    assert "some ranks may still run" not in done.err
    for host in made.machines:
        assert host.ports() == []
    return done


def ssh(made, host):
    known, key = made.ssh["known_hosts"], made.ssh["identity"]
    options = ["-o", f"UserKnownHostsFile={known}", "-i", key, f"{host.user}@{host.address}"]
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
