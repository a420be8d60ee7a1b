"""A process ends with its exit code, also when nobody can be told how it ended."""

import errno
import os
import sys

import pytest

from pipar_rpc import __main__ as command
from pipar_rpc import jobs
from pipar_rpc.base.errors import PeerError, UserError


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
            jobs._say("the results")
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
