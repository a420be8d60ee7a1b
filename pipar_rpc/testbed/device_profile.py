"""Recorded speed of a real device: how long each cut unit of a network takes there, as a YAML file."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from operator import or_
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipar_rpc.base.errors import ConfigError, first_line
from pipar_rpc.base.network_input import FLOAT, NetworkInput
from pipar_rpc.models import ModelSpec, Norm
from pipar_rpc.models.freezing import frozen_of, shown
from pipar_rpc.testbed.steadiness import DISTURBED
from pipar_rpc.testbed.unit_times import UnitTimes

KEY = "testbed.profile"


@dataclass
class DeviceProfile:
    """What `python -m pipar_rpc.profiler` records: the file's keys and their types.

    Attributes:
        model, norm, channels, image_size, num_classes, target, args, freeze: network; see `ModelSpec`.
        input_shape, input_dtype: its input, where that is no square image with a class; see `NetworkInput`.
        units: times of each cut unit, in order; batch size -> seconds.
        machine: machine and versions with which it was recorded; for the reader.
        spread: largest relative difference of the repeated runs that count; None if that is not known.
        disturbed: what disturbed the recording; empty if nothing did.
    """

    model: str
    norm: Norm
    channels: int
    image_size: int
    num_classes: int
    units: list[UnitTimes]
    target: str | None = None
    machine: dict[str, str] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    freeze: Any = field(default_factory=list)
    input_shape: list[int] | None = None
    input_dtype: str = FLOAT
    spread: float | None = None
    disturbed: list[str] = field(default_factory=list)

    @property
    def spec(self) -> ModelSpec:
        """The network it was recorded with."""
        sizes, shape = (self.channels, self.image_size, self.num_classes), self.input_shape
        given = None if shape is None else NetworkInput(tuple(shape), self.input_dtype)
        frozen = frozen_of(self.freeze, f"{KEY}: freeze")
        return ModelSpec(
            *(self.model, self.norm, *sizes), target=self.target, args=self.args, freeze=frozen, input=given
        )

    def times(self, trained: Sequence[bool]) -> tuple[UnitTimes, ...]:
        """The units' times where some of them are frozen.

        The first ones have no backward pass, and none of them has an update. If the network was recorded
        without frozen units, other backward passes stay as they are, which is an upper limit.

        Args:
            trained: whether each unit has anything to train.
        """
        reached = accumulate(trained, or_)
        return tuple(
            replace(
                unit,
                backward=unit.backward if back else dict.fromkeys(unit.backward, 0.0),
                update=unit.update if own else 0.0,
            )
            for unit, own, back in zip(self.units, trained, reached, strict=True)
        )

    def warning(self, path: Path) -> str | None:
        """One line if the recording was disturbed."""
        reasons = list(self.disturbed)
        if not reasons and (self.spread or 0.0) > DISTURBED:
            reasons.append(f"repeated runs differ by {self.spread:.0%}")
        told = f"{KEY}={path} was recorded on a machine that was disturbed: {'; '.join(reasons)}"
        return f"{told}. Record it again when nothing else runs there" if reasons else None

    def write(self, path: Path, origin: str = "Recorded by python -m pipar_rpc.profiler.") -> None:
        """Writes the file, `origin` in its first line; raises OSError."""
        rounded = [asdict(unit.scaled(1.0, digits=7)) for unit in self.units]
        values = asdict(self) | {"norm": self.norm.name, "units": rounded}
        path.write_text(f"# {origin} Times are seconds.\n{OmegaConf.to_yaml(values)}")

    def check(self, path: Path, spec: ModelSpec, unit_names: list[str]) -> None:
        """Raises ConfigError unless this is a profile of that network with those units."""
        own = self.spec
        if replace(own, args=spec.args, freeze=spec.freeze) != spec:
            raise ConfigError(KEY, path, f"a profile of {_called(spec)}; it is of {_called(own)}")
        if self.args != spec.args:
            raise ConfigError(KEY, path, f"a profile with model.args {spec.args}; it has {self.args}")
        if self.freeze and own.freeze != spec.freeze:
            asked = f"a profile without model.freeze, or with {shown(spec.freeze)}"
            raise ConfigError(KEY, path, f"{asked}; it has {shown(own.freeze)}")
        if [unit.name for unit in self.units] != unit_names:
            raise ConfigError(KEY, path, f"a profile of the units {', '.join(unit_names)}")


def read_profile(path: Path) -> DeviceProfile:
    """Reads a profile.

    Raises:
        ConfigError: one line about what is wrong with the file.
    """
    try:
        raw = OmegaConf.merge(OmegaConf.structured(DeviceProfile), OmegaConf.load(path))
        profile = cast(DeviceProfile, OmegaConf.to_object(raw))
    except OSError as error:
        raise ConfigError(KEY, path, f"a readable file ({first_line(error)})") from error
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        made = "a file made by python -m pipar_rpc.profiler"
        raise ConfigError(KEY, path, f"{made} ({first_line(error)})") from error
    for unit in profile.units:
        times = [*unit.forward.values(), *unit.backward.values(), unit.update]
        sizes = [*unit.forward, *unit.backward]
        if not unit.forward or not unit.backward or min(sizes) < 1:
            raise ConfigError(KEY, path, f"forward and backward times of unit {unit.name} by batch size")
        if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times):
            raise ConfigError(KEY, path, f"seconds >= 0 for unit {unit.name}")
    return profile


def _called(spec: ModelSpec) -> str:
    images = f"{spec.channels}x{spec.image_size}x{spec.image_size} images"
    taken = images if spec.input is None else f"input {spec.input}"
    return f"{spec.target or spec.name} ({spec.norm.name} norm, {taken}, {spec.num_classes} classes)"
