"""Nested mappings, as configurations are."""

from collections.abc import Mapping
from typing import Any


def by_dotted_keys(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a mapping and of those in it by their dotted keys; an empty mapping is a value.

    Args:
        section: mapping.
        prefix: beginning of all keys.
    """
    found: dict[str, Any] = {}
    for key, value in section.items():
        nested = isinstance(value, Mapping) and value
        found |= by_dotted_keys(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found
