"""Weights in files: plain state dicts under the names that the uncut network's own authors gave them."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipar_rpc.base.errors import ConfigError, UserError, first_line
from pipar_rpc.base.states import State

KEY = "model.weights"


def published_names(units: nn.Sequential, whole: nn.Module) -> dict[str, str]:
    """Name of each tensor in the units -> its name in the network that the units were taken out of."""
    names = {id(tensor): name for name, tensor in whole.state_dict(keep_vars=True).items()}
    return {name: names[id(tensor)] for name, tensor in units.state_dict(keep_vars=True).items()}


def rename(state: Mapping[str, Tensor], names: Mapping[str, str]) -> State:
    """The same tensors under other names."""
    return {names[name]: tensor for name, tensor in state.items()}


def load_weights(path: Path, names: Mapping[str, str], like: Mapping[str, Tensor], strict: bool) -> State:
    """Reads the state dict of an uncut network.

    Args:
        path: a file that `torch.save(network.state_dict(), path)` made; code in it is not run.
        names: names as `published_names` gives them.
        like: the units' state, for shapes.
        strict: whether every tensor must be there with its shape; otherwise those that do not fit are left
            out, as a classifier for other classes is.

    Returns:
        Tensors under the units' names, for `load_state_dict` (with `strict=False` there if not strict).

    Raises:
        UserError: no such file, not a state dict, or not of this network.
    """
    if not path.is_file():
        raise ConfigError(KEY, path, "an existing file")
    stored = _stored(path)
    fitting = {
        own: stored[name]
        for own, name in names.items()
        if name in stored and stored[name].shape == like[own].shape
    }
    problem = _difference(stored, names, like)
    if problem and (strict or not fitting):
        raise UserError(f"{KEY}={path}: {problem}; model.strict_weights=false takes what fits")
    return fitting


def _stored(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file; raises UserError."""
    try:
        with warnings.catch_warnings(action="ignore"):  # torch takes other files for odd pickles, and says so
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{KEY}={path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # torch's readers fail in every way on files that are not theirs
        what = f"not a state dict in torch's format ({type(error).__name__}: {first_line(error)})"
        raise UserError(f"{KEY}={path}: {what}") from error
    if not isinstance(stored, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in stored.items()
    ):
        raise UserError(f"{KEY}={path}: not a plain state dict (name -> tensor)")
    return stored


def _difference(stored: Mapping[str, Tensor], names: Mapping[str, str], like: Mapping[str, Tensor]) -> str:
    """What does not fit, in a few words; empty if all does."""
    for own, name in names.items():
        if name not in stored:
            return f"{name} is missing"
        if stored[name].shape != like[own].shape:
            expected, found = tuple(like[own].shape), tuple(stored[name].shape)
            return f"{name} has shape {found}, the network's has {expected}"
    unknown = sorted(stored.keys() - set(names.values()))
    return f"the network has no {unknown[0]}" if unknown else ""
