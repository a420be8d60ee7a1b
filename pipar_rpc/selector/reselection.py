"""P and N chosen again at aggregation points, when the links have changed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from pipar_rpc.base.states import State
from pipar_rpc.coordination.device_handle import DeviceHandle
from pipar_rpc.coordination.membership import Membership, ask
from pipar_rpc.coordination.moving_layers import move_layers
from pipar_rpc.coordination.rounds import Round
from pipar_rpc.plan.device_job import DeviceJob
from pipar_rpc.selector.facts import DeviceFacts, move_seconds
from pipar_rpc.selector.prediction import Candidate
from pipar_rpc.selector.selection import Selection
from pipar_rpc.testbed.link_rates import LinkRates, link_rates, measure_rates
from pipar_rpc.timing.traffic import carried
from pipar_rpc.training.device_loop import Device


class Reselector:
    """Chooses again and moves layers; to be called between rounds.

    Args:
        selection: made before the training.
        membership: the devices.
        network: the uncut network, as a pattern.
        on_change: function called with the changes, a line for each device, and the round before.

    Attributes:
        selection: present choice of P and N.
    """

    def __init__(
        self,
        selection: Selection,
        membership: Membership,
        network: nn.Sequential,
        on_change: Callable[[str, int], None],
    ) -> None:
        self.selection, self._on_change = selection, on_change
        self._chosen_with = list(selection.facts.devices)
        self._membership, self._handles = membership, membership.everyone
        self._network, self._min_gain = network, selection.plan.selector.min_gain

    def choose_again(self, state: State, this: Round) -> dict[DeviceHandle, int]:
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
        self.selection = self.selection.knowing(devices, [handle.present for handle in self._handles])
        if not looks:
            return {}
        now = [ranking[0] for ranking in self.selection.rankings]
        rankings = [
            best if self._worth(stay, best[0], device, remaining * handle.iterations) else [stay]
            for stay, best, device, handle in zip(
                now, self.selection.again(), devices, self._handles, strict=True
            )
        ]
        self.selection = self.selection.with_choice(rankings)
        sent = move_layers(self._membership, self._network, old, self.selection.plan.devices, state)
        self._tell(this.epoch, now, rankings)
        return sent

    def _look(self, jobs: Sequence[DeviceJob]) -> list[DeviceFacts]:
        """What is known of the devices, with the rates at which their links carried their last messages."""
        real = {
            handle: job for handle, job in zip(self._handles, jobs, strict=True) if not job.links_emulated
        }
        uplinks, found = self._membership.ask(Device.uplink_mbps), list(self.selection.facts.devices)
        known = {
            handle: (
                uplinks.get(handle) or facts.uplink_mbps,
                handle.port.downlink.recent_mbps() or facts.downlink_mbps,
            )
            for handle, facts in zip(self._handles, found, strict=True)
        }
        measured = self._measured({handle: job for handle, job in real.items() if handle.present}, known)
        for index, (handle, job) in enumerate(zip(self._handles, jobs, strict=True)):
            if handle.present and (handle in measured or handle not in real):
                rates = link_rates(job.uplink, job.downlink, known[handle], measured.get(handle))
                found[index] = replace(found[index], **rates._asdict())
        return found

    def _measured(
        self, jobs: Mapping[DeviceHandle, DeviceJob], known: Mapping[DeviceHandle, tuple[float, float]]
    ) -> dict[DeviceHandle, LinkRates]:
        """Of real links, as micro-batches or models tell; if they do not, transfers are timed, in turn."""
        traffic = self._membership.collect(
            {handle: handle.call(Device.traffic_times) for handle in jobs}, Device.traffic_times
        )
        took = self._membership.ping(list(traffic))
        found: dict[DeviceHandle, LinkRates] = {}
        for handle, ping in took.items():
            up, down = carried(handle.port.traffic, traffic[handle], ping, known[handle])
            up = up or handle.model_mbps(Device.upload)
            down = down or handle.model_mbps(Device.load, ping.round_trip_s)
            if jobs[handle].uplink.rate.limited:
                up = known[handle][0]
            if jobs[handle].downlink.rate.limited:
                down = known[handle][1]
            with self._membership.watching(handle):
                found[handle] = measure_rates(partial(ask, handle), ping, up, down)
        return found

    def _worth(self, stay: Candidate, best: Candidate, device: DeviceFacts, iterations: float) -> bool:
        """Whether a change saves enough of each iteration, and in all more than the move takes."""
        if stay.cut == best.cut:
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
            handle, old, new = self._handles[index], self._chosen_with[index], after[index]
            if best is stay or not handle.present:
                continue
            self._chosen_with[index] = new
            links = ((old.uplink_mbps, new.uplink_mbps), (old.downlink_mbps, new.downlink_mbps))
            up, down = (f"{first / scale:.3g} -> {then / scale:.3g}" for first, then in links)
            cuts = " -> ".join(f"P={own.split_point} N={own.num_micro_batches}" for own in (stay, best))
            seconds = " -> ".join(f"{own.total_s * scale:.3f}" for own in (stay, best))
            when = f"after round {self._membership.round} (epoch {epoch})"
            lines.append(
                f"selector: {when}, {handle.name}: links {up} Mbit/s up, {down} down; "
                f"{cuts}, predicted {seconds} s for each iteration"
            )
        if lines:
            self._on_change("\n".join(lines), self._membership.round)
