"""P and N chosen again at aggregation points, when the links have changed: layers move between the halves.

After an aggregation all halves hold the average, so the server knows all weights. A layer that goes down to
a device takes its weights and its momentum with it; one that goes up takes its momentum. Nothing is lost:
training goes on as if the network had been cut there from the beginning.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from torch import nn

from pipar_rpc.base.states import State, num_bytes
from pipar_rpc.coordination.aggregation import reserve_download
from pipar_rpc.coordination.build import fill
from pipar_rpc.coordination.device_handle import Peer
from pipar_rpc.coordination.membership import Roster, ask
from pipar_rpc.coordination.rounds import Round
from pipar_rpc.models import DropoutStreams
from pipar_rpc.plan.device_job import DeviceJob, links_timed
from pipar_rpc.selector.facts import DeviceFacts, move_seconds
from pipar_rpc.selector.prediction import Candidate
from pipar_rpc.selector.selection import Selection
from pipar_rpc.testbed.link import Slot
from pipar_rpc.testbed.link_rates import LinkRates, link_rates, measure_rates
from pipar_rpc.timing.traffic import carried
from pipar_rpc.training.device import Device


class Adapter:
    """Chooses again and moves layers; to be called between rounds.

    Args:
        selection: made before the training.
        roster: the devices.
        network: the uncut network, as a pattern.
        on_change: told what changed, a line for each device, and after which round.

    Attributes:
        selection: what the devices do now.
    """

    def __init__(
        self,
        selection: Selection,
        roster: Roster,
        network: nn.Sequential,
        on_change: Callable[[str, int], None],
    ) -> None:
        self.selection, self._on_change = selection, on_change
        self._chosen_with = list(selection.facts.devices)
        self._roster, self._peers = roster, roster.everyone
        self._network, self._min_gain = network, selection.plan.selector.min_gain

    def adapt(self, state: State, this: Round) -> dict[Peer, int]:
        """Looks at the links and changes what is worth it; at the end of the training nothing is.

        Args:
            state: the average, which all halves hold.
            this: the round that has just been averaged.

        Returns:
            Bytes that devices sent for it.
        """
        remaining = self.selection.plan.settings.epochs - this.epoch + (0 if this.ends_epoch else 0.5)
        looks, old = bool(remaining) and self._min_gain < 1, self.selection.plan.devices
        devices = self._look(old) if looks else self.selection.facts.devices
        self.selection = self.selection.knowing(devices, [peer.present for peer in self._peers])
        if not looks:
            return {}
        now = [ranking[0] for ranking in self.selection.rankings]
        rankings = [
            best if self._worth(stay, best[0], device, remaining * peer.iterations) else [stay]
            for stay, best, device, peer in zip(
                now, self.selection.again(), devices, self._peers, strict=True
            )
        ]
        self.selection = self.selection.with_choice(rankings)
        sent = self._switch(old, self.selection.plan.devices, state)
        self._tell(this.epoch, now, rankings)
        return sent

    def _look(self, jobs: Sequence[DeviceJob]) -> list[DeviceFacts]:
        """What is known of the devices, with the rates at which their links carried their last messages."""
        real = {peer: job for peer, job in zip(self._peers, jobs, strict=True) if not job.links_emulated}
        uplinks, found = self._roster.ask(Device.uplink_mbps), list(self.selection.facts.devices)
        known = {
            peer: (
                uplinks.get(peer) or facts.uplink_mbps,
                peer.port.downlink.recent_mbps() or facts.downlink_mbps,
            )
            for peer, facts in zip(self._peers, found, strict=True)
        }
        measured = self._measured({peer: job for peer, job in real.items() if peer.present}, known)
        for index, (peer, job) in enumerate(zip(self._peers, jobs, strict=True)):
            if peer.present and (peer in measured or peer not in real):
                rates = link_rates(job.uplink, job.downlink, known[peer], measured.get(peer))
                found[index] = replace(found[index], **rates._asdict())
        return found

    def _measured(
        self, jobs: Mapping[Peer, DeviceJob], known: Mapping[Peer, tuple[float, float]]
    ) -> dict[Peer, LinkRates]:
        """Of real links, as micro-batches or models tell; if they do not, transfers are timed, in turn."""
        passed = self._roster.collect({peer: peer.call(Device.passages) for peer in jobs}, Device.passages)
        took = self._roster.ping(list(passed))
        found: dict[Peer, LinkRates] = {}
        for peer, ping in took.items():
            up, down = carried(peer.port.passed, passed[peer], ping, known[peer])
            up = up or peer.model_mbps(Device.upload)
            down = down or peer.model_mbps(Device.load, ping.round_trip_s)
            if jobs[peer].uplink.rate.limited:
                up = known[peer][0]
            if jobs[peer].downlink.rate.limited:
                down = known[peer][1]
            with self._roster.watching(peer):
                found[peer] = measure_rates(partial(ask, peer), ping, up, down)
        return found

    def _worth(self, stay: Candidate, best: Candidate, device: DeviceFacts, iterations: float) -> bool:
        """Whether a change saves enough of each iteration, and in all more than the move takes."""
        if stay.place == best.place:
            return False
        saved = stay.total_s - best.total_s
        move_s = move_seconds(self.selection.facts.sizes, device, stay.split_point, best.split_point)
        return saved > self._min_gain * stay.total_s and saved * iterations > move_s

    def _tell(
        self,
        epoch: int,
        now: Sequence[Candidate],
        rankings: Sequence[Sequence[Candidate]],
    ) -> None:
        """Tells every change, with the rates that were known when the device's P and N were chosen before."""
        lines = []
        scale = self.selection.plan.settings.time_scale
        after = self.selection.facts.devices
        for index, (stay, (best, *_)) in enumerate(zip(now, rankings, strict=True)):
            peer, old, new = self._peers[index], self._chosen_with[index], after[index]
            if best is stay or not peer.present:
                continue
            self._chosen_with[index] = new
            links = ((old.uplink_mbps, new.uplink_mbps), (old.downlink_mbps, new.downlink_mbps))
            up, down = (f"{first / scale:.3g} -> {then / scale:.3g}" for first, then in links)
            cuts = " -> ".join(f"P={own.split_point} N={own.num_micro_batches}" for own in (stay, best))
            seconds = " -> ".join(f"{own.total_s * scale:.3f}" for own in (stay, best))
            when = f"after round {self._roster.round} (epoch {epoch})"
            lines.append(
                f"selector: {when}, {peer.name}: links {up} Mbit/s up, {down} down; "
                f"{cuts}, predicted {seconds} s for each iteration"
            )
        if lines:
            self._on_change("\n".join(lines), self._roster.round)

    def _switch(self, old: Sequence[DeviceJob], new: Sequence[DeviceJob], state: State) -> dict[Peer, int]:
        """Has devices and server halves hold what `new` says; all links work at the same time."""
        jobs = dict(zip(self._peers, new, strict=True))
        leaving: list[tuple[Slot, Peer, State, State]] = []
        for index, peer in enumerate(self._peers):
            if old[index] == new[index] or not peer.present:
                continue
            names = self._network[old[index].split_point : new[index].split_point].state_dict()
            added = {name: state[name] for name in names}
            momentum = {name: own for name, own in peer.half.momentum().items() if name in names}
            leaving.append((reserve_download(peer, added, momentum), peer, added, momentum))
        asked: dict[Peer, Future[State]] = {}
        for slot, peer, added, momentum in sorted(leaving, key=lambda item: item[0].arrival):
            peer.port.downlink.wait(slot)
            peer.expect(jobs[peer].emulated_s, links_timed(jobs[peer]))
            asked[peer] = peer.call(Device.recut, jobs[peer], added, momentum)
        returned = self._roster.collect(asked, Device.recut)
        for peer, given_up in returned.items():
            self._recut_half(peer, jobs[peer], state, given_up)
        return {peer: num_bytes(given_up) for peer, given_up in returned.items()}

    def _recut_half(self, peer: Peer, job: DeviceJob, state: State, momentum: State) -> None:
        layers = fill(copy.deepcopy(self._network[job.split_point :]), state)
        dropout = DropoutStreams(layers, job.seed, job.rank)
        peer.half.recut(layers, dropout, momentum)
