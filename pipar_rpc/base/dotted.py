"""Functions and classes of the user's own, named in the configuration as `package.module.name`.

Arguments may themselves be mappings with a `_target_`, as Hydra's users know them: such an argument is what
its function returns, or with `_partial_: true` the function with these arguments filled in.
"""

import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipar_rpc.base.errors import ConfigError, UserError, first_line, nearest

Made = TypeVar("Made")

TARGET, PARTIAL, POSITIONAL = "_target_", "_partial_", "_args_"
CUSTOM = "custom"  # name of what is the user's own


@dataclass(frozen=True)
class Choice:
    """Something of the package's by its name, or of the user's by a dotted name; plain data.

    Attributes:
        name: name of what the package has, or "custom".
        target: dotted name of a function or class of the user's; None for what the package has.
        args: keyword arguments.
    """

    name: str = CUSTOM
    target: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def called(self) -> str:
        """What the user called it."""
        return self.target or self.name


def make(
    key: str, choice: Choice, known: Mapping[str, Callable[..., Any]], offered: Mapping[str, Any]
) -> Any:
    """Calls what a choice stands for.

    Args:
        key: configuration key of the choice, for errors.
        choice: what was chosen.
        known: functions and classes of the package's by name.
        offered: keyword arguments that it gets if it has parameters for them.

    Raises:
        UserError: no such function or argument, or it failed.
    """
    if choice.target is not None:
        return call(f"{key}.{TARGET}", choice.target, offered, choice.args)
    return call_named(key, choice.name, known[choice.name], offered, choice.args)


def call(key: str, target: str, offered: Mapping[str, Any], args: Mapping[str, Any]) -> Any:
    """Calls the function or class that a dotted name stands for.

    Args:
        key: configuration key that holds the name, for errors.
        target: dotted name.
        offered: keyword arguments that it gets if it has parameters for them.
        args: keyword arguments that it gets in any case; they go before those that are offered.

    Raises:
        UserError: no such function, or it failed.
    """
    function = resolved(key, target)
    prefix = f"{key.removesuffix(TARGET)}args"
    filled = {name: _built(f"{prefix}.{name}", value, offered) for name, value in args.items()}
    return run(f"{key}={target}", function, [], accepted(function, offered) | filled)


def run(
    called: str, function: Callable[..., Any], positional: Sequence[Any], keywords: Mapping[str, Any]
) -> Any:
    """Returns what a function of the user's returns; its errors become one line.

    Args:
        called: what the line calls it.
        function: function of the user's.
        positional: positional arguments.
        keywords: keyword arguments.

    Raises:
        UserError: it failed.
    """
    try:
        return function(*positional, **keywords)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{called} failed: {type(error).__name__}: {first_line(error)}") from error


def resolved(key: str, target: str) -> Callable[..., Any]:
    """The function or class that a dotted name stands for.

    Raises:
        ConfigError: this machine has none of that name.
    """
    try:
        function = pkgutil.resolve_name(target)
    except Exception as error:  # whatever goes wrong in the user's module while it is imported
        why = first_line(error)
        if not isinstance(error, ImportError | AttributeError | ValueError):
            why = f"{type(error).__name__}: {why}"
        allowed = f"the dotted name of a function that this machine can import ({why})"
        raise ConfigError(key, target, allowed) from error
    if not callable(function):
        raise ConfigError(key, target, "a function")
    made: Callable[..., Any] = function
    return made


def _built(key: str, value: Any, offered: Mapping[str, Any]) -> Any:
    """An argument, in which mappings with a `_target_` have become what they stand for."""
    if isinstance(value, list | tuple):
        return [_built(f"{key}.{index}", item, offered) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if TARGET not in value:
        return {name: _built(f"{key}.{name}", item, offered) for name, item in value.items()}
    settings = {name: item for name, item in value.items() if name not in {TARGET, PARTIAL, POSITIONAL}}
    filled = {name: _built(f"{key}.{name}", item, offered) for name, item in settings.items()}
    function = resolved(f"{key}.{TARGET}", value[TARGET])
    positional = [_built(f"{key}.{POSITIONAL}", item, offered) for item in value.get(POSITIONAL, [])]
    if value.get(PARTIAL, False):
        return functools.partial(function, *positional, **filled)
    called = f"{key}.{TARGET}={value[TARGET]}"
    return run(called, function, positional, accepted(function, offered) | filled)


def call_named(
    key: str, name: str, make: Callable[..., Made], offered: Mapping[str, Any], args: Mapping[str, Any]
) -> Made:
    """Calls a function or class of the package's own with what the configuration gives it.

    Args:
        key: configuration key that chose it, for errors.
        name: the name by which it was chosen.
        make: function or class.
        offered: keyword arguments that it gets if it has parameters for them.
        args: keyword arguments from the configuration.

    Raises:
        UserError: it has no such argument, or one is out of range.
    """
    known = inspect.signature(make).parameters.keys() - offered.keys()
    for argument in args:
        if argument not in known:
            hint = nearest(argument, known) if known else "it has none"
            raise UserError(f"{key}.args.{argument}: no such argument of {name}: {hint}")
    filled = {argument: _built(f"{key}.args.{argument}", value, offered) for argument, value in args.items()}
    try:
        return make(**accepted(make, offered), **filled)
    except (TypeError, ValueError) as error:  # of torch's own classes; ours check their arguments
        raise UserError(f"{key}.args of {name}: {first_line(error)}") from error


def accepted(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the offered keyword arguments that a function has parameters for."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # functions in C need not tell
        return {}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in offered.items() if open_ended or name in parameters}
