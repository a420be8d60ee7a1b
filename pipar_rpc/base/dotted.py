"""Functions and classes of the user's own, named in the configuration as `package.module.name`."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pipar_rpc.base.errors import ConfigError, UserError, first_line, nearest

Made = TypeVar("Made")


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
    try:
        function = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        allowed = f"the dotted name of a function that this machine can import ({first_line(error)})"
        raise ConfigError(key, target, allowed) from error
    if not callable(function):
        raise ConfigError(key, target, "a function")
    try:
        return function(**(accepted(function, offered) | dict(args)))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{key}={target} failed: {type(error).__name__}: {first_line(error)}") from error


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
        UserError: it has no such argument.
    """
    known = inspect.signature(make).parameters.keys() - offered.keys()
    for argument in args:
        if argument not in known:
            hint = nearest(argument, known) if known else "it has none"
            raise UserError(f"{key}.args.{argument}: no such argument of {name}: {hint}")
    return make(**accepted(make, offered), **args)


def accepted(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the offered keyword arguments that a function has parameters for."""
    parameters = inspect.signature(function).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in offered.items() if open_ended or name in parameters}
