"""Objects on other ranks: what the type checker sees of a call, and what becomes of it there."""

from pathlib import Path

from mypy import api

from pipar_rpc.base.errors import Failure
from pipar_rpc.transport.remote_object import _Actor, name_of

ROOT = Path(__file__).parents[2]


def test_wrong_calls_are_refused_by_the_type_checker():
    """A wrong method, argument or result; see the file."""
    found, errors, code = api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), str(ROOT / "tests/support/wrong_calls.py")]
    )
    assert (code, errors) == (0, ""), found


class Adder:
    def __init__(self, local, stop, start, *, step=1):
        self.number, self.step = start, step

    def add(self, times, offset=0):
        self.number += times * self.step + offset
        return self.number

    def close(self):
        pass


def test_a_call_crosses_as_a_name_and_its_arguments():
    """By place and by name, in the order of the numbers; a failure comes back as a value."""
    actor = _Actor(Adder, (10,), {"step": 100})
    second = actor.call(1, name_of(Adder.add), (1,), {"offset": 5})
    first = actor.call(0, name_of(Adder.add), (2,), {})
    assert (first.wait(), second.wait()) == (210, 315)
    failure = actor.call(2, name_of(Adder.add), ("a",), {}).wait()
    assert isinstance(failure, Failure)
    assert failure.error_type == "TypeError"
    actor.close(3).wait()
