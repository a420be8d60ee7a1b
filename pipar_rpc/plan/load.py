"""From a composed configuration to checked objects of `pipar_rpc.plan.schema`; errors are one line.

Hydra composes, `load` turns the result into a `Config`. Such objects stay in this folder:
`make_plan` turns them into plain data.
"""

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from pipar_rpc.base.errors import ConfigError, UserError, first_line, nearest
from pipar_rpc.plan.compression_schema import CodecConfig
from pipar_rpc.plan.node_schema import NodeConfig
from pipar_rpc.plan.schema import Config

DEVICE_KEYS: dict[str, tuple[str, ...]] = {  # what may differ between devices; (): all keys below it
    "pipeline": ("split_point", "num_micro_batches"),
    "network": (),
    "testbed": ("slowdown", "calibrate_s", "profile"),
    "batch_size": (),
    "compression": ("activations", "gradients"),
    "privacy": ("dpsgd", "activations", "nopeek"),
    "data": ("train_size_per_device", "random_crop", "random_flip", "mean", "std"),
}
FREE_KEYS = (  # below these, any key may be added
    *("devices.overrides.", "model.args.", "data.args.", "aggregation.rule.args.", "fault.leave."),
    *("optimizer.args.", "schedule.args.", "loss.args.", "metrics.", "participation.args."),
    *("privacy.cut.args.", "server.order.args."),
    *(f"compression.{what}.args." for what in ("activations", "gradients", "models")),
)


def load(raw: DictConfig) -> Config:
    """Turns a composed configuration into a checked Config; raises UserError with one line."""
    for key in set(_keys(raw)) - set(_keys(OmegaConf.structured(Config))):  # added with Hydra's +key=value
        if not key.startswith(FREE_KEYS):
            raise UserError(_unknown(key))
    config = _checked(raw)
    assert isinstance(config, Config)
    return config


def for_device(raw: DictConfig, device: int) -> Config:
    """Returns the configuration of device `device` (1..K), with `devices.overrides.<device>` merged in.

    Raises:
        UserError: one line, which begins with `devices.overrides.` if it is about an override.
    """
    overrides = raw.devices.overrides.get(str(device))
    if overrides is None:
        return load(raw)
    prefix = f"devices.overrides.{device}"
    if not isinstance(overrides, DictConfig):
        raise ConfigError(prefix, overrides, f"settings of {', '.join(DEVICE_KEYS)}")
    _check_device_keys(overrides, prefix)
    base = _without_other_arguments(raw, overrides)
    try:
        merged = OmegaConf.merge(base, overrides)
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix}.{one_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return load(merged)


def _without_other_arguments(raw: DictConfig, overrides: DictConfig) -> DictConfig:
    """A copy in which a codec that a device does not share takes its arguments from the device's override."""
    base = copy.deepcopy(raw)
    OmegaConf.set_struct(base, False)  # arguments may be added; what is no key at all is refused all the same
    for what, codec in (overrides.get("compression") or {}).items():
        if isinstance(codec, DictConfig) and "name" in codec and codec.name != base.compression[what].name:
            base.compression[what] = OmegaConf.structured(CodecConfig)
    return base


def _check_device_keys(overrides: DictConfig, prefix: str) -> None:
    for name, value in overrides.items():
        key = str(name)
        if key not in DEVICE_KEYS:
            hint = nearest(key, DEVICE_KEYS)
            raise UserError(f"{prefix}.{key}: no such key for a single device: {hint}")
        if not isinstance(value, DictConfig):
            if key != "batch_size":
                single = f"single keys of {key}, as {prefix}.{key}.{(DEVICE_KEYS[key] or ('...',))[0]}=..."
                raise ConfigError(f"{prefix}.{key}", value, f"{single}: presets are for all devices")
            continue
        for below in map(str, value):
            if (allowed := DEVICE_KEYS[key]) and below not in allowed:
                may = f"may differ: {', '.join(allowed)}"
                raise UserError(f"{prefix}.{key}.{below}: must be the same for all devices; {may}")


def node_of(raw: DictConfig) -> NodeConfig:
    """Checks and returns the node section of a composed configuration."""
    node = _checked(raw.node)
    assert isinstance(node, NodeConfig)
    return node


def parse_node(arguments: Sequence[str], in_files: Mapping[str, Any] | None = None) -> NodeConfig:
    """Reads the `node.*` overrides of a command line: a device rank reads nothing else of it.

    Args:
        arguments: words of the command line.
        in_files: result of `node_in_files` on rank 0; the command line has precedence.

    Raises:
        UserError: unknown `node.` key, or value out of range.
    """
    words = (argument.lstrip("+") for argument in arguments)
    node_overrides = [with_quoted_braces(word) for word in words if word.startswith("node.")]
    parts = ({"node": OmegaConf.structured(NodeConfig)}, {"node": dict(in_files or {})})
    try:
        raw = OmegaConf.merge(*parts, OmegaConf.from_dotlist(node_overrides))
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error
    assert isinstance(raw, DictConfig)
    return node_of(raw)


def given(arguments: Sequence[str], key: str) -> str | None:
    """Returns the value that a command line gives a key; None if it gives none."""
    words = (argument.lstrip("+").partition("=") for argument in arguments)
    return next((value for name, _, value in words if name == key), None)


def quoted(text: str) -> str:
    """Puts a text in Hydra's quotes, where backslashes are doubled before a quote, and only there."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def with_quoted_braces(argument: str) -> str:
    """Quotes the braces of node.data_root={device}, which Hydra would take for a dictionary."""
    key, _, value = argument.partition("=")
    is_plain = key == "node.data_root" and "{" in value and not value.startswith(("'", '"'))
    return f"{key}={quoted(value)}" if is_plain else argument


def node_in_files(raw: DictConfig, arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the node settings that come from a configuration's files, not from its command line."""
    given = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    default = OmegaConf.structured(NodeConfig)
    return {
        str(key): value
        for key, value in raw.node.items()
        if value != default[key] and f"node.{key}" not in given
    }


def _checked(raw: DictConfig) -> Any:
    try:
        return OmegaConf.to_object(raw)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error


def one_line(error: OmegaConfBaseException) -> str:
    """Returns an OmegaConf error as one line that begins with the full key."""
    key = str(error.full_key or "")
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return _unknown(key)
    reason = first_line(error).rstrip(".")
    return f"{key}: {reason}" if key else reason


def _unknown(key: str) -> str:
    """Says what the key may have been: one of its group, or whatever is written alike."""
    known = _keys(OmegaConf.structured(Config))
    group = key.rpartition(".")[0]
    siblings = [name for name in known if group and name.rpartition(".")[0] == group]
    close = difflib.get_close_matches(key, siblings or known, n=1, cutoff=0.75 if siblings else 0.6)
    if close:
        return f"{key}: no such key: did you mean {close[0]}?"
    listed = f"one of {', '.join(sorted(siblings))}" if siblings else "docs/configuration.md lists all keys"
    return f"{key}: no such key; {listed}"


def _keys(raw: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for name, value in raw.items():
        assert isinstance(name, str | int)
        keys.append(f"{prefix}{name}")
        if isinstance(value, DictConfig):
            keys += _keys(value, f"{prefix}{name}.")
    return keys
