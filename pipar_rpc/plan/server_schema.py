"""The configuration of the server halves: `server`, and `sfl.server`, its older name for strategy=sfl."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipar_rpc.base.dotted import CUSTOM, Choice
from pipar_rpc.base.errors import require
from pipar_rpc.plan.named import check_named
from pipar_rpc.plan.strategies import AUTO, ORDERS

MANY = ("sfl", "pipar")  # strategies in which several devices use the server at the same time


class Half(StrEnum):
    """What the server has for its part of the network."""

    replicated = "replicated"
    shared = "shared"
    merged = "merged"


class SflServer(StrEnum):
    """The server halves of split federated learning."""

    replicated = "replicated"
    shared = "shared"


@dataclass
class SflConfig:
    """Split federated learning with a server half for each device, or with one that all devices train."""

    server: SflServer = SflServer.replicated


@dataclass
class OrderConfig:
    """The order in which the server computes the devices' micro-batches."""

    name: str = AUTO
    _target_: str | None = None
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_named("server.order", self, (AUTO, *ORDERS), "server order", AUTO)
        own = self.name == CUSTOM or not self.args
        require(own, "server.order.args", self.args, f"empty but with server.order.name={CUSTOM}")

    @property
    def choice(self) -> Choice:
        """The order as plain data."""
        return Choice(self.name, self._target_, self.args)


@dataclass
class ServerConfig:
    """How many server halves there are, and in which order they compute."""

    half: Half = Half.replicated
    order: OrderConfig = field(default_factory=OrderConfig)


def halves_of(strategy: str, server: ServerConfig, sfl: SflConfig) -> Half:
    """Returns which server halves there are, whichever of the two keys says it.

    Raises:
        ConfigError: the keys contradict each other, or the strategy has no such halves.
    """
    half = server.half
    several = f"replicated but with strategy={' or '.join(MANY)}, in which devices share the server's time"
    require(half is Half.replicated or strategy in MANY, "server.half", half.value, several)
    if strategy != "sfl" or sfl.server is SflServer.replicated:
        return half
    named = "shared or left out with sfl.server=shared, the older name of server.half=shared"
    require(half is not Half.merged, "server.half", half.value, named)
    return Half.shared


def check_order(strategy: str, half: Half, name: str, num_servers: int) -> None:
    """Raises ConfigError if an order has no meaning with these server halves.

    Args:
        strategy: name of the strategy.
        half: server halves.
        name: name of the order.
        num_servers: number of server ranks.
    """
    key = "server.order.name"
    if name == AUTO:
        return
    alone = f"{AUTO} with strategy={strategy}, in which no two devices use the server at a time"
    require(strategy in MANY, key, name, alone)
    together = f"{AUTO} with server.half=merged, which computes the devices' micro-batches together"
    require(half is not Half.merged, key, name, together)
    if half is Half.shared:
        fixed = "with server.half=shared: what the half learns must not depend on who is faster"
        require(name in {"rotation", CUSTOM}, key, name, f"{AUTO}, rotation or {CUSTOM} {fixed}")
    else:
        needless = f"{AUTO}, separate, priority or {CUSTOM} with server.half=replicated"
        require(name != "rotation", key, name, f"{needless}: only one half for all needs a fixed order")
    one = f"{AUTO} or separate with num_servers={num_servers}: each server rank computes by itself"
    require(num_servers == 1 or name == "separate", key, name, one)


def halves_notices(strategy: str, sfl: SflConfig, half: Half, batch_statistics: bool) -> list[str]:
    """Lists what the user should know about how the server halves were understood.

    Args:
        strategy: name of the strategy.
        sfl: keys of the older name.
        half: server halves.
        batch_statistics: whether layers normalise with the statistics of micro-batches.
    """
    told = []
    if sfl.server is not SflServer.replicated:
        older = f"sfl.server={sfl.server.value} is the older name of server.half={sfl.server.value}"
        told.append(older + ("" if strategy == "sfl" else f", and does nothing with strategy={strategy}"))
    if half is Half.merged and batch_statistics:
        told.append(
            "server.half=merged: in the server half, batch statistics are those of all devices' samples in a "
            "merged micro-batch"
        )
    return told


def order_notices(name: str) -> list[str]:
    """Lists what the user should know about a server order where P and N are chosen."""
    if name in {AUTO, "separate"}:
        return []
    return [f"selector: predictions are for server.order.name=separate, not {name}"]
