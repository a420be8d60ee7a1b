"""The strategies, as data: one device loop and one server loop serve them all."""

from dataclasses import dataclass, field
from enum import StrEnum

from pipar_rpc.base.dotted import Choice

AUTO = "auto"
ORDERS = ("separate", "rotation", "priority")  # that a user may choose


@dataclass(frozen=True)
class Strategy:
    """A way of training one network on the data of many devices.

    Attributes:
        whole_network: whether devices hold all layers (P = Q), and the server only averages.
        pipelined: whether mini-batches are cut into N micro-batches; otherwise N = 1.
        in_turn: whether devices train one after the other and hand the device half on through the server;
            otherwise all train at the same time, and their networks are averaged.
        shared_half: whether the server has one half for all devices; otherwise one for each device.
        keeps_labels: whether loss and labels stay on the devices, so that a micro-batch crosses twice.
        merged: whether the one half computes the micro-batches of all devices together.
        order: order in which devices are served; "auto" for the one that the server halves need.
    """

    whole_network: bool = False
    pipelined: bool = False
    in_turn: bool = False
    shared_half: bool = False
    keeps_labels: bool = False
    merged: bool = False
    order: Choice = field(default_factory=lambda: Choice(AUTO))

    @property
    def server_half(self) -> str:
        """What the server has of the network, for results; "none" where devices hold the whole network."""
        if self.whole_network:
            return "none"
        if self.merged:
            return "merged"
        return "shared" if self.shared_half else "replicated"

    @property
    def server_order(self) -> Choice:
        """The order in which devices are served, as `pipar_rpc.transport.server_order` opens it."""
        if self.order.name != AUTO:
            return self.order
        if self.merged:
            return Choice("together")
        return Choice("rotation" if self.shared_half and not self.in_turn else "separate")


STRATEGIES = {
    "fl": Strategy(whole_network=True),  # federated learning (McMahan et al., 2017)
    "sl": Strategy(in_turn=True, shared_half=True),  # split learning (Gupta and Raskar, 2018)
    "sfl": Strategy(),  # split federated learning (Thapa et al., 2022)
    "pipar": Strategy(pipelined=True),
}


class Method(StrEnum):
    """How PiPar's P and N are chosen; see `pipar_rpc.selector`."""

    exhaustive = "exhaustive"
    paper = "paper"
