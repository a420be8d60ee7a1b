"""Rank 0's part: rounds of training on all devices, and the average of their networks in between."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from pipar_rpc.base.errors import LostError
from pipar_rpc.base.states import State, is_finite, num_bytes
from pipar_rpc.coordination.aggregation import Aggregator, average, distribute, hand_over, join
from pipar_rpc.coordination.device_handle import TRAIN, Peer
from pipar_rpc.coordination.epoch_result import EpochResult, EpochSums
from pipar_rpc.coordination.membership import Roster
from pipar_rpc.timing.timeline import Timeline
from pipar_rpc.training.aggregation_rule import FedAvg
from pipar_rpc.training.round_report import RoundReport


class Coordinator:
    """Drives the devices through epochs. A device that is lost leaves the average; the others go on.

    Args:
        roster: the devices.
        every: iterations between two aggregations; -1 for one at the end of each epoch, 0 for none. The end
            of an epoch always ends a round.
        in_turn: whether devices train one after the other and hand the device half on, instead of averaging.
        keep_networks: whether to keep each device's own network, at the cost of their memory.
        on_aggregated: called after each aggregation with (network, epoch, whether the epoch ends); returns
            bytes that devices sent for it.
        aggregator: makes the global network; FedAvg if there is none.
    """

    def __init__(
        self,
        roster: Roster,
        every: int,
        in_turn: bool,
        keep_networks: bool = False,
        on_aggregated: Callable[[State, int, bool], Mapping[Peer, int]] | None = None,
        aggregator: Aggregator | None = None,
    ) -> None:
        self._aggregator = aggregator or Aggregator(FedAvg())
        self._roster, self._every, self._in_turn = roster, every, in_turn
        self._on_aggregated = on_aggregated
        self._handed_on: State | None = None
        self._keep_networks, self._device_networks = keep_networks, dict[Peer, State]()
        self._timeline = Timeline()

    def train_epoch(
        self, epoch: int, start: int = 0, on_round: Callable[[int, int, State | None], None] | None = None
    ) -> EpochResult | None:
        """Trains an epoch on all devices; None if those that are left had nothing to train.

        Args:
            epoch: from 1.
            start: iteration at which it begins.
            on_round: called after each round but the epoch's last one, with the epoch, the iteration that
                follows, and the global network if it was averaged; the time it takes is not counted.

        Raises:
            PeerError: a device failed, or too few are left.
            UserError: a device cannot do its part, for a reason the user can mend.
        """
        sums, network = EpochSums(self._roster.everyone), None
        began, paused = time.monotonic(), 0.0
        self._device_networks = {}
        play = self._relay if self._in_turn else self._round
        while start < (length := max(peer.iterations for peer in self._roster.peers)):
            stop = start + (self._every if self._every > 0 else length)
            network = play(epoch, start, stop, sums)
            start, ends = stop, stop >= length
            if network is not None and self._on_aggregated is not None:
                for peer, num_sent in self._on_aggregated(network, epoch, ends).items():
                    sums.uploaded(peer, num_sent)
            if on_round is not None and not ends:
                pause = time.monotonic()
                on_round(epoch, start, network)
                paused += time.monotonic() - pause
        seconds = time.monotonic() - began - paused
        own = [self._device_networks.get(peer) for peer in self._roster.everyone]
        return sums.result(began, seconds, self._timeline, network, own) if sums.samples else None

    def gather(self) -> State:
        """The average of the networks as they are, without changing them or paying for a transfer."""
        networks = self.networks()
        return average(list(networks.values()), [peer.num_samples for peer in networks], Timeline())

    def rule_state(self) -> State:
        """What the aggregation rule remembers."""
        return dict(self._aggregator.rule.state())

    def networks(self) -> dict[Peer, State]:
        """Each device's own network."""
        return join(self._roster.ask("state"))

    def momentum(self) -> dict[Peer, State]:
        """Of each device's network, by the names of its parameters."""
        return {peer: own | peer.half.momentum() for peer, own in self._roster.ask("momentum").items()}

    def _round(self, epoch: int, start: int, stop: int, sums: EpochSums) -> State | None:
        self._roster.begin_round()
        trained: dict[Peer, Future[Any]] = {}
        uploaded: dict[Peer, Future[Any]] = {}
        began = time.monotonic()
        for peer in self._roster.peers:
            trained[peer] = _train(peer, epoch, start, stop)
            if self._every != 0:  # queued behind the training: starts without waiting for the others
                uploaded[peer] = peer.call("upload")
        reports: dict[Peer, RoundReport] = self._roster.collect(trained, TRAIN)
        sums.training_s += time.monotonic() - began
        reports = self._roster.settle(reports)
        for peer, report in reports.items():
            sums.note(peer, report)
        return self._aggregate(reports, uploaded, sums) if uploaded else None

    def _relay(self, epoch: int, start: int, stop: int, sums: EpochSums) -> State | None:
        """Each device in turn: takes the device half over from the one before it, trains, hands it on."""
        self._roster.begin_round()
        for peer in self._roster.peers:
            if start >= peer.iterations:
                continue
            before = peer.half.snapshot()  # what a device that is lost has done of its turn is undone
            if not self._turn(peer, epoch, start, stop, sums):
                peer.port.become_idle()
                peer.half.restore(before)
        self._roster.counts = True
        return None if self._handed_on is None else self._handed_on | self._roster.peers[0].half.state()

    def _turn(self, peer: Peer, epoch: int, start: int, stop: int, sums: EpochSums) -> bool:
        """One device's turn; returns whether it came to its end."""
        collect = self._roster.collect
        if self._handed_on is not None and not collect({peer: hand_over(peer, self._handed_on)}, "load"):
            return False
        began = time.monotonic()
        trained, uploaded = _train(peer, epoch, start, stop), peer.call("upload")
        report = collect({peer: trained}, TRAIN).get(peer)
        sums.training_s += time.monotonic() - began
        state = collect({peer: uploaded}, "upload").get(peer)
        if report is None or state is None or not self._roster.settle({peer: report}):
            return False
        sums.note(peer, report)
        sums.uploaded(peer, num_bytes(state))
        if not self._healthy(join({peer: state})):
            return False
        self._handed_on = state
        return True

    def _healthy(self, networks: dict[Peer, State]) -> dict[Peer, State]:
        """Those that are finite; devices with others leave."""
        for peer, network in networks.items():
            if not is_finite(network):
                why = "its weights are not finite: a smaller optimizer.lr may help"
                self._roster.lose(peer, LostError(why))
        return {peer: network for peer, network in networks.items() if peer.present}

    def _aggregate(
        self, reports: Mapping[Peer, RoundReport], uploaded: Mapping[Peer, Future[Any]], sums: EpochSums
    ) -> State:
        states = self._roster.collect({peer: uploaded[peer] for peer in reports}, "upload")
        for peer, state in states.items():
            sums.uploaded(peer, num_bytes(state))
        networks = self._healthy(join(states))
        states = {peer: states[peer] for peer in networks}
        samples = [reports[peer].samples for peer in networks]
        if not any(samples):  # those who had something to train are gone
            samples = [1] * len(samples)
        network = self._aggregator.aggregate(list(networks.values()), samples, self._timeline)
        self._roster.counts = True
        if self._keep_networks:
            self._device_networks = {
                peer: {key: tensor.clone() for key, tensor in own.items()} for peer, own in networks.items()
            }
        self._roster.collect(distribute(states, network), "load")
        return network


def _train(peer: Peer, epoch: int, start: int, stop: int) -> Future[Any]:
    peer.port.listen()
    patience_s = max(peer.limit_s(method) for method in (TRAIN, "upload", "load"))
    return peer.call(TRAIN, epoch, min(start, peer.iterations), min(stop, peer.iterations), patience_s)
