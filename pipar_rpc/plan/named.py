"""Keys of the form {name, _target_, args}: the package's own by name, or the user's by dotted name."""

from collections.abc import Iterable
from typing import Any, Protocol

from pipar_rpc.base.dotted import CUSTOM
from pipar_rpc.base.errors import nearest, require


class Named(Protocol):
    """A group of keys of this form."""

    name: str
    _target_: str | None
    args: dict[str, Any]


def check_named(key: str, chosen: Named, known: Iterable[str], what: str, default: str = "") -> None:
    """Checks that a name is known, and that there is a dotted name if and only if it is "custom".

    Args:
        key: full name of the group, for errors.
        chosen: the group; a dotted name in place of `default` makes it "custom".
        known: names of what the package has.
        what: kind of thing that is chosen, e.g. "codec".
        default: name that stands there if the user gave none; empty if a dotted name needs name=custom.
    """
    if default and chosen._target_ is not None and chosen.name == default:
        chosen.name = CUSTOM
    names = [*known, CUSTOM]
    require(
        chosen.name in names, f"{key}.name", chosen.name, f"a known {what}: {nearest(chosen.name, names)}"
    )
    custom = chosen.name == CUSTOM
    target = f"the dotted name of a function or class with {key}.name={CUSTOM}, else null"
    require(custom == (chosen._target_ is not None), f"{key}._target_", chosen._target_, target)
