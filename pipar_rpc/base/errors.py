"""The errors that a user meets: each is one line that says what to change or who failed."""

import difflib
import traceback
from collections.abc import Iterable
from typing import NamedTuple


class UserError(Exception):
    """Something only the user can mend. Shown as one line without a traceback; exit code 2."""


class ConfigError(UserError):
    """A configuration value that is out of range.

    Args:
        key: full dotted name of the configuration key.
        value: the value that was given.
        allowed: accepted values, as the end of the sentence "must be ...".
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}={'null' if value is None else value}: must be {allowed}")


def require(accepted: bool, key: str, value: object, allowed: str) -> None:
    """Raises ConfigError unless the value is accepted."""
    if not accepted:
        raise ConfigError(key, value, allowed)


def as_number(given: object) -> float:
    """A value that ought to be a number; NaN, which is in no range, if it is none."""
    return float(given) if isinstance(given, int | float) and not isinstance(given, bool) else float("nan")


class PeerError(RuntimeError):
    """Another process failed, or kept this one waiting beyond the deadline; exit code 1."""


class RegroupError(Exception):
    """A device has come back: all processes end, for torchrun to start them again."""


class LostError(PeerError):
    """A device that can no longer take part: it is gone, keeps silent, or its loss is not finite."""


class Failure(NamedTuple):
    """An exception as a value: it travels where exceptions are mangled or lost."""

    error_type: str
    message: str
    trace: str
    is_user_error: bool

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describes `error` with its traceback."""
        trace = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), trace, isinstance(error, UserError))

    def to_error(self, where: str) -> Exception:
        """The exception to raise on this side; `where` names the process that failed."""
        if self.is_user_error:
            return UserError(f"{where}: {self.message}")
        if self.error_type in {PeerError.__name__, LostError.__name__}:
            return LostError(f"{where}: {self.message}")
        return PeerError(f"{where} failed: {self.error_type}: {self.message}\n{self.trace}".rstrip())


def first_line(error: BaseException) -> str:
    """An error's message without what follows its first line (torch appends C++ stacks and places)."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(" (this error originated at ")[0]


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error line about an unknown name: the closest valid one, then all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}(one of {', '.join(names)})"
