"""A process ends with its exit code, also when nobody can be told how it ended."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipar_rpc import __main__ as command
from pipar_rpc import hydra_compose, sweep
from pipar_rpc.__main__ import main
from pipar_rpc.base.errors import PeerError, UserError
from tests.support.processes import ROOT, environment, wait_until


class Full:
    """A pipe whose reader is gone, or a file on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    flush = lambda self: self.write("")  # noqa: E731


class Ended(BaseException):
    pass


def leave(code):
    raise Ended(code)


@pytest.fixture
def exit_code(monkeypatch, tmp_path):
    """The exit code of a process whose streams and error file cannot be written."""
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "error.json"))

    def run(outcome):
        def work(arguments):
            if isinstance(outcome, BaseException):
                raise outcome
            sweep._say("the results")
            return outcome

        monkeypatch.setattr(command, "_run", work)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Full())  # pytest puts its own there before a test begins
            patch.setattr(sys, "stderr", Full())
            with pytest.raises(Ended) as ended:
                command.main()
        return ended.value.args[0]

    return run


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (0, 0),
        (75, 75),
        (UserError("mend this"), 2),
        (PeerError("lost"), 1),
        (ValueError("a fault"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=["done", "regroup", "user", "peer", "fault", "interrupt"],
)
def test_it_ends_with_its_code(exit_code, outcome, code):
    assert exit_code(outcome) == code


def test_the_command_ends_with_code_2_and_writes_nothing(tmp_path):
    """As rank 0 of torchrun, which never joins the group; rpc/test_bad_input.py has all else that is bad."""
    torchrun = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"}
    env = environment(**torchrun, MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    command = [sys.executable, "-m", "pipar_rpc", "pipeline.split_point=9"]
    options = {"capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, check=False, cwd=tmp_path, env=env, **options)
    assert done.returncode == 2
    expected = "pipar_rpc: error: pipeline.split_point=9: must be 1..5 (vgg5 has 5 cut units)\n"
    assert done.stderr == expected
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


ON_A_DEVICE = (
    "__main__",
    "coordination.build",
    "selector.device_profiling",
)  # the command, and what is placed
HEAVY = ("hydra", "matplotlib", "tensorboard", "torchvision", "sklearn")


def test_a_device_imports_nothing_that_only_the_server_needs():
    """A board has little memory, and a second of imports is long in a short training."""
    code = "".join(f"import pipar_rpc.{name}\n" for name in ON_A_DEVICE)
    code += f"import sys; print(*sys.modules.keys() & {set(HEAVY)})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "\n"


def test_help_and_config_are_shown_without_torchrun():
    command = [sys.executable, "-m", "pipar_rpc", "--cfg", "job", "network=wifi"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0
    assert "uplink_mbps: 50" in done.stdout


def test_help_is_short_and_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own_net.yaml").touch()
    monkeypatch.setattr("sys.argv", ["pipar_rpc", "--help", f"--config-dir={tmp_path / 'mine'}"])
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("torchrun was started"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    comments = str(hydra_compose.config_dir())  # a path, as long as it is
    assert max(len(line) for line in text.splitlines() if comments not in line) <= 100
    assert len(text.splitlines()) < 40
    for group in {path.parent for path in (ROOT / "conf").rglob("*.yaml")} - {ROOT / "conf"}:
        name = group.relative_to(ROOT / "conf").as_posix()
        (names,) = re.findall(rf"^  {name} +((?:\S+, +|\S+,\n +)*\S+)$", text, flags=re.MULTILINE)
        choices = {path.stem for path in group.glob("*.yaml")} | (
            {"own_net"} if group.name == "model" else set()
        )
        assert set(re.split(r",\s+", names)) == choices
    assert len(re.findall(r"^  .*-m pipar_rpc ", text, flags=re.MULTILINE)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_interruption_while_torch_is_imported_is_one_line():
    """It takes seconds, and a KeyboardInterrupt in its middle was a long traceback, or swallowed."""
    command = [sys.executable, "-m", "pipar_rpc", "num_devices=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), cwd=ROOT)
    assert wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), 30)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "pipar_rpc: interrupted\n")
