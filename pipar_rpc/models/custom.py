"""Networks of the user's own."""

import inspect
import pkgutil
from collections import OrderedDict
from typing import Any

from torch import nn

from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.models.spec import ModelSpec, named_units

KEY = "model._target_"


def build_custom(spec: ModelSpec) -> nn.Sequential:
    """Calls the user's function and returns its units as a sequence.

    The function gets, of `channels`, `image_size`, `num_classes` and `norm` ("batch", "group" or "none"),
    those that it has parameters for, and what `model.args` holds. It returns an `nn.Sequential` or a list of
    modules, each of which is one cut unit.

    Raises:
        UserError: no such function, it failed, or returned something else.
    """
    if not spec.target:
        raise ConfigError(KEY, spec.target, "the dotted name of a function, e.g. my_nets.build")
    try:
        function = pkgutil.resolve_name(spec.target)
    except (ImportError, AttributeError, ValueError) as error:
        allowed = f"the dotted name of a function that this machine can import ({first_line(error)})"
        raise ConfigError(KEY, spec.target, allowed) from error
    if not callable(function):
        raise ConfigError(KEY, spec.target, "a function")
    try:
        units = function(**_arguments(function, spec))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{KEY}={spec.target} failed: {type(error).__name__}: {first_line(error)}") from error
    return _sequence(units, spec.target)


def _arguments(function: Any, spec: ModelSpec) -> dict[str, Any]:
    offered = {
        "channels": spec.channels,
        "image_size": spec.image_size,
        "num_classes": spec.num_classes,
        "norm": spec.norm.value,
    }
    parameters = inspect.signature(function).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    accepted = {key: value for key, value in offered.items() if open_ended or key in parameters}
    return accepted | spec.args


def _sequence(units: Any, target: str) -> nn.Sequential:
    if isinstance(units, list | tuple | nn.ModuleList) and all(isinstance(unit, nn.Module) for unit in units):
        units = nn.Sequential(*units)
    plain = isinstance(units, nn.Sequential) and type(units).forward is nn.Sequential.forward
    if not plain or not len(units):
        what = f"a function that returns an nn.Sequential or a list of modules, not {type(units).__name__}"
        raise ConfigError(KEY, target, what)
    owners: dict[int, str] = {}
    for name, unit in named_units(units):
        for tensor in (*unit.parameters(), *unit.buffers()):
            if owners.setdefault(id(tensor), name) != name:
                both = f"{owners[id(tensor)]} and {name}"
                raise UserError(f"{KEY}={target}: units {both} share a parameter, so no cut can part them")
    return nn.Sequential(OrderedDict(named_units(units)))
