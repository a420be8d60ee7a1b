"""What a choice of P and N rested on, as a file of the run: from it other choices can be predicted later."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipar_rpc.base.disk import write_whole
from pipar_rpc.base.errors import UserError, first_line
from pipar_rpc.selector.facts import Crossing, DeviceFacts, Facts, MessageCost, ServerFacts, UnitSizes
from pipar_rpc.testbed.unit_times import UnitTimes

HEADING = "# What the selector measured; times and rates are those of results.csv."


def write_facts(path: Path, facts: Facts) -> None:
    """Writes the facts as YAML; a device that equals one before it only refers to that one."""
    known: dict[str, Any] = {}
    for device in facts.devices:
        known.setdefault(repr(own := _plain(asdict(device))), own)
    values = {
        "devices": [known[repr(_plain(asdict(device)))] for device in facts.devices],
        "server": _plain(asdict(facts.server)),
        "sizes": [_plain(asdict(unit)) for unit in facts.sizes],
    }
    text = f"{HEADING}\n{yaml.safe_dump(values, sort_keys=False, default_flow_style=None)}"
    write_whole(path, lambda file: file.write(text.encode()))


def read_facts(path: Path) -> Facts:
    """Reads what `write_facts` wrote.

    Raises:
        UserError: the file cannot be read, or is of another kind.
    """
    try:
        raw = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        server = ServerFacts(**raw["server"])
        return Facts(
            devices=[_device(own) for own in raw["devices"]],
            server=replace(server, units=_units(raw["server"]["units"])),
            sizes=[UnitSizes(**own) for own in raw["sizes"]],
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not what the selector wrote ({first_line(error)})") from error


def _device(raw: Mapping[str, Any]) -> DeviceFacts:
    crossing, device = raw["crossing"], DeviceFacts(**raw)
    if crossing is not None:
        up, down = (np.array(crossing[name], dtype=float) for name in ("uplink_bytes", "downlink_bytes"))
        crossing = Crossing(up, down, _units(crossing["server"]))
    message = MessageCost(**raw["message"])
    return replace(device, units=_units(raw["units"]), crossing=crossing, message=message)


def _units(raw: Sequence[Mapping[str, Any]]) -> list[UnitTimes]:
    return [UnitTimes(**own) for own in raw]


def _plain(value: Any) -> Any:
    """The same without numpy's types and tuples, which YAML does not know."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return value
