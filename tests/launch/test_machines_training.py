"""A training on machines that are folders of this one: no ssh, no VPN, and a shell for their Python."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.machines import deploy, plan, remote
from launch.machines.deploy import running
from launch.machines.schema import Machine, Ssh
from pipar_rpc.base.errors import UserError
from tests.support import inventories
from tests.support.inventories import SLEEPS, begun_elsewhere, needs_loop, nothing_is_left, run
from tests.support.processes import free_port

pytestmark = needs_loop
OF_TORCH = """\
[W1127 01:01:19.733639829 socket.cpp:207] [c10d] The hostname
[E1127 01:01:20.1 TCPStore.cpp:346] [c10d] TCP client failed
Exception raised from throwTimeoutError at socket.cpp:1023 (most recent call first):
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x80 (0x7f in libc10.so)

"""


def test_a_training_runs_to_its_end_and_down_leaves_results_and_logs(tmp_path):
    server = "mkdir -p outputs\ntouch outputs/model.pt\nsleep 1\nexit 0"
    inventory = inventories.folders(tmp_path, server=server, board="sleep 1\nexit 0")
    done = run(inventory, "run", "epochs=3", "experiment_name=a b")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert any(line.startswith("server | torchrun -m torch.distributed.run --nnodes=2") for line in lines)
    (board,) = (line for line in lines if line.startswith("board  | torchrun"))
    assert board.endswith("epochs=3 experiment_name=a b")
    assert nothing_is_left(inventory)
    again = run(inventory, "logs")
    assert (again.code, "server | torchrun" in again.out) == (0, True)
    for machine in inventory.machines:  # there is no VPN to close
        Path(machine.plan, "down.sh").write_text("exit 0\n")
    done = run(inventory, "down")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "server").iterdir()) == ["behaviour", "outputs"]
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["behaviour"]
    (folder,) = inventory.logs.iterdir()
    assert (folder / "server.log").read_text().startswith("torchrun -m torch.distributed.run")
    assert run(inventory, "down").code == 0  # nothing is there any more


def test_who_is_killed_or_fails_is_started_again_and_goes_on(tmp_path):
    """The server only when it was killed; then it resumes."""
    once = "if [ -e failed ]; then sleep 1; exit 0; fi\ntouch failed\n"
    wait = "while [ ! -e ../board/failed ]; do sleep 0.1; done\n"
    inventory = inventories.folders(tmp_path, server=f"{once}{wait}kill -KILL $$", board=f"{once}exit 1")
    done = run(inventory, "run", "epochs=3")
    assert done.code == 0, done.err
    begins = [line for line in done.out.splitlines() if line.startswith("server | torchrun")]
    assert [line.endswith("epochs=3 resume=auto") for line in begins] == [False, True]
    assert sum(line.startswith("board  | torchrun") for line in done.out.splitlines()) == 2


def test_a_failed_training_is_not_begun_again_and_ends_everywhere(tmp_path):
    """Also where the ranks are deaf to SIGTERM."""
    deaf = "trap '' TERM\nsleep 600 &\nwait\nwait"
    server = "sleep 1\necho pipar_rpc: error: no such network\necho more\nexit 1"
    inventory = inventories.folders(tmp_path, server=server, board=deaf)
    done = run(inventory, "run")
    assert (done.code, done.err) == (1, "the training has failed: server: no such network\n")
    assert "server | -- torchrun has ended with 1" in done.out
    assert done.out.count("server | torchrun") == 1
    assert nothing_is_left(inventory)


def test_a_training_that_runs_is_not_run_twice_and_goes_on_without_us(tmp_path):
    inventory = inventories.folders(tmp_path, server=SLEEPS, board=SLEEPS)
    for machine in inventory.machines:
        subprocess.run(["sh", f"{machine.plan}/start.sh"], check=True)
    try:
        for words in (("run",), ("check",), ("up",)):
            done = run(inventory, *words)
            assert (done.code, len(done.err.splitlines())) == (2, 1)
            assert "server: status: a training runs there; `logs` follows it, `stop` ends it" in done.err
    finally:
        for machine in inventory.machines:
            subprocess.run(["sh", f"{machine.plan}/stop.sh"], check=True)
    assert [running(inventory, machine)[1] for machine in inventory.machines] == [False, False]
    assert nothing_is_left(inventory)


def test_of_two_trainings_at_once_one_is_refused_and_down_ends_all(tmp_path):
    """Both had looked before either began; the ranks of both went on after `down`."""
    inventory = inventories.folders(tmp_path, server="sleep 3", board="sleep 3")
    both = [begun_elsewhere(inventory) for _ in range(2)]
    errors = [own.communicate(timeout=60)[1] for own in both]
    codes = [own.returncode for own in both]
    assert sorted(codes) == [0, 2], errors
    assert "a training runs there; `logs` follows it, `stop` ends it" in errors[codes.index(2)]
    assert nothing_is_left(inventory)


@pytest.mark.parametrize("says", ["", OF_TORCH])
def test_a_device_that_cannot_begin_ends_the_run(tmp_path, says):
    """The server's torchrun says nothing but a warning, and waits for it."""
    server = f"echo '{says}'\n{SLEEPS}" if says else SLEEPS
    inventory = inventories.folders(tmp_path, server=server, board="exit 1")
    Path(inventory.path.parent, "python").write_text("#!/bin/sh\n. ./behaviour\n")
    settings = Path(inventory.machines[1].plan, "settings.sh")
    settings.write_text("INTERFACE=lo PYTHON= RESTART_ON_FAILURE=no\n")
    done = run(inventory, "run")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "board: run: torchrun has ended with 1" in done.err
    settings.write_text("INTERFACE=gone0\n")
    assert "board: start: the VPN is not up: `up` first" in run(inventory, "run").err
    assert nothing_is_left(inventory)


REFUSED = """\
echo pipar_rpc: error: epochs=0: must be more
echo 'E1127 03:59:36.966000 9495 torch/multiprocessing/api.py:1002] failed (exitcode: 2) local_rank: 0'
"""


@pytest.mark.parametrize("who", ["server", "board"])
def test_what_only_the_user_can_mend_ends_the_run_at_once(tmp_path, who):
    """Torchrun would start the ranks again, ten times."""
    behaviours = {"server": SLEEPS, "board": SLEEPS} | {who: f"{REFUSED}{SLEEPS}"}
    inventory = inventories.folders(tmp_path, **behaviours)
    Path(inventory.path.parent, "python").write_text("#!/bin/sh\n. ./behaviour\n")
    done = run(inventory, "run")
    assert (done.code, done.err) == (2, f"launch.machines: error: {who}: run: epochs=0: must be more\n")
    assert nothing_is_left(inventory)


def test_folders_of_the_user_are_not_ours(tmp_path):
    inventory = inventories.folders(tmp_path, server="exit 0", board="exit 0")
    server, board = inventory.machines
    Path(server.plan, "down.sh").write_text("exit 0\n")
    shutil.rmtree(board.plan)
    for folder in (board.state, board.plan):
        Path(folder).mkdir()
        Path(folder, "thesis.txt").write_text("mine")
        with pytest.raises(UserError, match=f"board: copy the plan: {folder}: lies there and is not ours"):
            deploy.copy(inventory, board)
        assert run(inventory, "down").code == 0
        assert Path(folder, "thesis.txt").read_text() == "mine"
        shutil.rmtree(folder)


def test_where_logs_cannot_be_written_nothing_is_taken_down(tmp_path):
    inventory = inventories.folders(tmp_path, server="exit 0", board="exit 0")
    inventory.logs.write_text("a file")
    done = run(inventory, "down")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "machines_logs: cannot be written: File exists" in done.err
    assert Path(inventory.server.plan, plan.ID).exists()


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """Machines on which nothing begins."""
    return inventories.folders(tmp_path_factory.mktemp("idle"), server="touch begun", board="touch begun")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("run", "epochs=0"), "epochs=0: must be >= 1"),
        (("run", "network=4g"), "network=4g: must be left out: the links are real"),
        (("run", "num_servers=2"), "num_servers=2: must be left out: the plan sets it"),
        (("run", "testbed.time_scale=10"), "testbed.time_scale=10: must be 1"),
        (("run", "--cfg", "job"), "--cfg job: shows something"),
        (("up", "epochs=3"), "epochs=3: settings of pipar_rpc belong to `run`"),
    ],
)
def test_bad_settings_are_one_line_before_anything_starts(idle, words, line):
    done = run(idle, *words)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert done.err.startswith(f"launch.machines: error: {line}"), done.err
    assert not list(idle.path.parent.glob("*/begun"))


def test_another_plan_must_be_brought_up_first(tmp_path):
    inventory = inventories.folders(tmp_path, server="exit 0", board="exit 0")
    plan.write(inventory)
    assert "server: status: it has another plan, or none: `up` first" in run(inventory, "run").err
    inventory.path.write_text(inventory.path.read_text() + "max_restarts: 3\n")
    assert "machines.yaml is newer than its plan: `plan` and `up` again" in run(inventory, "run").err


def test_what_takes_too_long_names_machine_and_step():
    machine = Machine(name="board", local=True)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"^board: copy the plan: not done after 1 s$"):
        remote.run(machine, Ssh(), "copy the plan", "exec sleep 60", timeout_s=1.0)
    assert time.monotonic() - began < 20
    with pytest.raises(UserError, match=r"^board: up: no such key$"):
        remote.run(machine, Ssh(), "up", "echo no such key >&2; exit 3")


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")
def test_a_machine_that_cannot_be_reached_is_named():
    machine = Machine(name="board", user="pi", address="127.0.0.1", ssh_port=free_port())
    line = rf"^board: up: pi@127\.0\.0\.1, port {machine.ssh_port}, cannot be reached: .*refused"
    with pytest.raises(UserError, match=line):
        remote.run(machine, Ssh(), "up", "true")


def test_link_and_probe_run_with_the_standard_library_alone():
    address = ["127.0.0.1", str(free_port()), "0.2"]
    link = [sys.executable, "-I", "-S", str(plan.ON_MACHINE / "link.py")]
    with subprocess.Popen([*link, "serve", *address]) as server:
        measured = subprocess.run([*link, "measure", *address], capture_output=True, check=True, text=True)
        assert server.wait(20) == 0
    assert '"up_mbps"' in measured.stdout
    subprocess.run([*link, "reach", *address], check=True)  # nobody listens, but the machine answers
    probe = [sys.executable, "-I", "-", "/tmp", "data", "pipar0", "torch", "no_such_module"]
    said = subprocess.run(probe, input=deploy.source("probe.py"), capture_output=True, check=True).stdout
    assert b'"missing": ["no_such_module"]' in said
