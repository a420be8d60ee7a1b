"""What of a network does not train, by configuration: `model.freeze`."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from glob import escape
from itertools import accumulate
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pipar_rpc.base.errors import ConfigError, require

KEY = "model.freeze"

Frozen = int | tuple[str, ...]
"""Number of first units, or names and patterns of what is frozen."""


def frozen_of(given: Any, key: str = KEY) -> Frozen:
    """Checks what a user asks to freeze.

    Args:
        given: a number, or a list of names and patterns; units of a custom network may have numbers as names.
        key: name of the setting, for errors.

    Raises:
        ConfigError: it is something else.
    """
    number = isinstance(given, int) and not isinstance(given, bool) and given >= 0
    named = isinstance(given, list | tuple) and all(
        isinstance(name, str | int) and not isinstance(name, bool) and name != "" for name in given
    )
    what = (
        "a number of first units, 0 or more, or a list of names or patterns of units, layers and parameters"
    )
    require(number or named, key, given, what)
    return int(given) if number else tuple(map(str, given))


def freeze(network: nn.Sequential, frozen: Frozen) -> nn.Sequential:
    """Keeps parts of a network as they are while the rest trains, in place; returns the network.

    Names are those in the sequence of units: of a unit ("conv1"), of a layer in it ("conv1.1") or of a
    parameter ("conv1.1.weight"). A unit or layer stands for all that is in it. Frozen parameters require no
    gradient. A batch norm whose running statistics are frozen normalises with them while it trains too, and
    they stay: a constant affine map, whose output for a sample does not depend on the other samples.

    Args:
        network: the uncut network.
        frozen: number of first units, or patterns of names as in `fnmatch`; upper and lower case differ.

    Raises:
        ConfigError: more units than there are, a pattern that matches nothing, or nothing is left to train.
    """
    patterns = _patterns(network, frozen)
    if not patterns:
        return network
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if _matches(name, patterns):
            parameter.requires_grad_(False)
    for name, layer in network.named_modules(remove_duplicate=False):
        if isinstance(layer, _NormBase) and _matches(f"{name}.running_mean", patterns):
            layer.register_forward_pre_hook(_evaluate)
    left = any(parameter.requires_grad for parameter in network.parameters())
    require(left, KEY, shown(frozen), "something that leaves parameters to train")
    return network


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether any layer normalises with the statistics of the micro-batch while it trains."""
    norms = [layer for layer in network.modules() if isinstance(layer, _NormBase)]
    return any(_evaluate not in layer._forward_pre_hooks.values() for layer in norms)


def shown(frozen: Frozen) -> str:
    """As it is written in a configuration."""
    return str(frozen) if isinstance(frozen, int) else f"[{','.join(frozen)}]"


def _patterns(network: nn.Sequential, frozen: Frozen) -> Sequence[str]:
    """Patterns, each of which matches something; raises ConfigError."""
    units = list(network._modules)
    if isinstance(frozen, int):
        require(frozen < len(units), KEY, frozen, f"0..{len(units) - 1}: there are {len(units)} cut units")
        return [escape(name) for name in units[:frozen]]
    names = [name for name, _ in network.named_modules(remove_duplicate=False)]
    tensors = (
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    )
    names += [name for name, _ in tensors]
    for pattern in frozen:
        if not any(fnmatchcase(name, pattern) for name in names if name):
            example = f"layers and parameters in them, as {tensors[0][0]}" if tensors else "layers in them"
            raise ConfigError(
                KEY, pattern, f"a name or pattern of units ({', '.join(units)}) or of {example}"
            )
    return frozen


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a tensor is matched, or a module that it is in."""
    names = list(accumulate(name.split("."), "{}.{}".format))
    return any(fnmatchcase(part, pattern) for part in names for pattern in patterns)


def _evaluate(layer: nn.Module, _: Any) -> None:
    """Runs before a layer's forward pass: `train()` of a whole half does not reach it."""
    layer.eval()
