"""From a command line to a plan, in this process; and what is said about one that is wrong."""

from pathlib import Path
from typing import Any

import pytest

from pipar_rpc import hydra_compose
from pipar_rpc.base.errors import UserError
from pipar_rpc.plan.plan import Plan, make_plan


def plan(
    *overrides: str, world_size: int = 5, data_root: Path = Path("nowhere"), one_machine: bool = True
) -> Plan:
    raw, _ = hydra_compose.compose(["node.download=false", *overrides])
    return make_plan(raw, world_size, data_root, one_machine)


def message(*overrides: str, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        plan(*overrides, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text
