"""Networks of the user's own."""

from collections import OrderedDict
from typing import Any

from torch import nn

from pipar_rpc.base import dotted
from pipar_rpc.base.errors import ConfigError, UserError
from pipar_rpc.models.spec import ModelSpec, named_units

KEY = "model._target_"


def build_custom(spec: ModelSpec) -> nn.Sequential:
    """Calls the user's function and returns its units as a sequence.

    The function gets, of `channels`, `image_size`, `num_classes`, `input_shape` and `norm` ("batch", "group"
    or "none"), those that it has parameters for and that are known, and what `model.args` holds. It returns
    an `nn.Sequential` or a list of modules, each of which is one cut unit.

    Raises:
        UserError: no such function, it failed, or returned something else.
    """
    if not spec.target:
        raise ConfigError(KEY, spec.target, "the dotted name of a function, e.g. my_nets.build")
    sizes = {"channels": spec.channels, "image_size": spec.image_size, "num_classes": spec.num_classes}
    known: dict[str, Any] = {name: size for name, size in sizes.items() if size}
    offered = known | {"norm": spec.norm.value, "input_shape": spec.sample.shape}
    return _sequence(dotted.call(KEY, spec.target, offered, spec.args), spec.target)


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
