"""An optimiser's state by the names of parameters, so that it can move with them to the other half.

A key is `<parameter>/<entry>`, as in "3.weight/exp_avg". Entries that are plain numbers travel as tensors
of no dimension, and their keys end in "#int" or "#float".
"""

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipar_rpc.base.states import State

MOMENTUM = "momentum_buffer"  # checkpoints from before other optimisers name only the parameter
NUMBERS: dict[str, type[int] | type[float]] = {"int": int, "float": float}


def state_of(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> State:
    """Copies the optimiser's state to the CPU; before the first step most have none."""
    state: State = {}
    for name, parameter in parameters.items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                state[f"{name}/{entry}"] = value.detach().to("cpu", copy=True)
            elif value is not None:
                kind = "float" if isinstance(value, float) else "int"
                state[f"{name}/{entry}#{kind}"] = torch.tensor(value, dtype=_exact(kind))
    return state


def load_state(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, state: State) -> None:
    """Replaces the state of all parameters; those that `state` does not name begin anew."""
    by_name: dict[str, dict[str, Any]] = {}
    for key, tensor in state.items():
        name, entry = _parts(key)
        entry, _, kind = entry.partition("#")
        by_name.setdefault(name, {})[entry] = NUMBERS[kind](tensor.item()) if kind else tensor
    for name, parameter in parameters.items():
        before = optimizer.state.pop(parameter, {})
        if name in by_name:
            values = by_name[name]
            optimizer.state[parameter] = {
                entry: _placed(value, parameter, before.get(entry)) for entry, value in values.items()
            }


def of_parameters(state: Mapping[str, Tensor], names: Container[str]) -> State:
    """The part of an optimiser's state that is about these parameters."""
    return {key: tensor for key, tensor in state.items() if _parts(key)[0] in names}


def _parts(key: str) -> tuple[str, str]:
    name, slash, entry = key.rpartition("/")
    return (name, entry) if slash else (key, MOMENTUM)


def _placed(value: Any, parameter: Tensor, before: Any) -> Any:
    """A copy where the optimiser keeps it: counters of steps stay on the CPU, as torch's own do."""
    if not isinstance(value, Tensor):
        return value
    if isinstance(before, Tensor):
        return value.to(before.device, copy=True)
    return value.to(parameter.device if value.dim() else "cpu", copy=True)


def _exact(kind: str) -> torch.dtype:
    return torch.float64 if kind == "float" else torch.int64
