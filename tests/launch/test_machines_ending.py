"""How a training on machines, which are folders of this one, ends: stopped, interrupted or failed."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.machines import plan
from launch.machines.deploy import running
from launch.machines.training import start
from pipar_rpc.base.errors import UserError
from tests.support import inventories
from tests.support.inventories import SLEEPS, begun_elsewhere, needs_loop, nothing_is_left, run
from tests.support.processes import wait_until

pytestmark = needs_loop


def has_begun(inventory):
    """Whether all machines start their ranks, which is waited for."""
    return wait_until(lambda: all(Path(machine.state, "ranks").exists() for machine in inventory.machines))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_training_leaves_nothing(tmp_path, number):
    inventory = inventories.folders(tmp_path, server=SLEEPS, board=SLEEPS)

    def interrupt():
        assert has_begun(inventory)
        time.sleep(1)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    done = run(inventory, "run", "epochs=3")
    thread.join()
    assert done.code == 130
    assert "ending the ranks of all machines" in done.out
    assert nothing_is_left(inventory)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_goes_on_after_a_failed_server_is_told_and_stopped(tmp_path):
    """The boards of a training whose `run` was lost wait for the server, again and again."""
    inventory = inventories.folders(tmp_path, server="exit 1", board=SLEEPS)
    for machine in inventory.machines:
        subprocess.run(["sh", f"{machine.plan}/start.sh"], check=True)
    done = run(inventory, "logs")
    assert (done.code, done.err) == (1, "the training has failed: server: its lines above say why\n")
    assert "ranks still run on board, and wait for the server: `stop` ends them" in done.out
    done = run(inventory, "stop")
    assert (done.code, done.out) == (0, "no ranks run on 2 machines\n")
    assert nothing_is_left(inventory)
    assert running(inventory, inventory.server) == (plan.mark_of(inventory), False)
    done = run(inventory, "logs")
    assert ("still run" in done.out, "the training has failed" in done.err) == (False, True)


def test_what_was_stopped_has_not_failed(tmp_path):
    """Though torchrun then ends with 1, too."""
    server = "trap 'kill $!; exit 1' TERM\nsleep 600 &\nwait"
    inventory = inventories.folders(tmp_path, server=server, board=SLEEPS)
    with begun_elsewhere(inventory) as own:
        assert has_begun(inventory)
        assert run(inventory, "stop").code == 0
        out, err = own.communicate(timeout=60)
    assert (own.returncode, err) == (1, "the training was stopped\n")
    assert "server | -- its ranks were stopped" in out
    assert "the training was stopped" in run(inventory, "logs").err
    assert nothing_is_left(inventory)


def test_where_no_plan_is_nothing_was_stopped(tmp_path):
    """As after a change of the folder in the inventory, though ranks may run from the old one."""
    inventory = inventories.folders(tmp_path, server="exit 0", board="exit 0")
    Path(inventory.machines[1].plan).rename(tmp_path / "away")
    done = run(inventory, "stop")
    assert done.out == "no ranks run on 1 machines\nnothing was ended on board: no plan is in its folder\n"


def test_a_training_whose_output_nobody_reads_any_more_is_ended(tmp_path):
    """As behind `| tee`, which Ctrl-C ends too, or `| head`."""
    speaks = "while sleep 0.1; do echo more; done"
    inventory = inventories.folders(tmp_path, server=speaks, board=speaks)
    with begun_elsewhere(inventory) as own:
        assert own.stdout is not None
        assert own.stderr is not None
        assert "torchrun" in own.stdout.readline()
        own.stdout.close()
        assert (own.stderr.read(), own.wait(60)) == ("", 141)
    assert nothing_is_left(inventory)


def test_a_start_that_was_cut_off_is_ended_too(tmp_path):
    """It goes on on its machine, and would begin the ranks after they were ended."""
    inventory = inventories.folders(tmp_path, server=SLEEPS, board="exit 0")
    script = Path(inventory.server.plan, "start.sh")
    script.write_text(f"sleep 3\n{script.read_text()}")
    hasty = replace(inventory, ssh=replace(inventory.ssh, timeout_s=1.0))
    with pytest.raises(UserError, match="server: start: not done after 1 s"):
        start(hasty, inventory.server, [])
    assert run(inventory, "stop").code == 0
    time.sleep(3)
    assert nothing_is_left(inventory)


def test_before_a_run_there_are_no_logs(tmp_path):
    inventory = inventories.folders(tmp_path, server="exit 0", board="exit 0")
    assert "server: logs: nothing has been run yet" in run(inventory, "logs").err
