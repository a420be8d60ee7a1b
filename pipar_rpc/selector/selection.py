"""P and N of each device, chosen before the training from what was measured of devices, links and server."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TypeVar

from pipar_rpc.base.disk import write_whole
from pipar_rpc.base.errors import UserError
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.plan.node import Node
from pipar_rpc.plan.plan import Plan
from pipar_rpc.results.terminal import table
from pipar_rpc.selector.choose import best_of_each, choose, predict
from pipar_rpc.selector.facts import DeviceFacts, Facts, ServerFacts, fitting
from pipar_rpc.selector.facts_file import write_facts
from pipar_rpc.selector.prediction import Candidate, mean_iteration_s
from pipar_rpc.selector.profiling import profile_devices
from pipar_rpc.selector.server_profiling import profile_server
from pipar_rpc.selector.sizes import crossings, unit_sizes
from pipar_rpc.testbed.unit_timer import sizes_to_time

log = logging.getLogger(__name__)
T = TypeVar("T")

SHOWN = 10
STAGES = {
    "f^c": "device_forward",
    "u": "uplink",
    "f^s": "server_forward",
    "b^s": "server_backward",
    "d": "downlink",
    "b^c": "device_backward",
}


U_STAGES = STAGES | {"o": "output_downlink", "t": "device_tail", "v": "return_uplink"}


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        plan: the job with the chosen P and N.
        rankings: fastest candidates of each device, the chosen one first; in real seconds.
        facts: facts on which the choice rests.
        present: whether each device takes part; those that have left use neither server nor time.
    """

    plan: Plan
    rankings: Sequence[Sequence[Candidate]]
    facts: Facts
    present: tuple[bool, ...]

    def knowing(self, devices: Sequence[DeviceFacts], present: Sequence[bool]) -> "Selection":
        """The same P and N, with what is known of the devices now."""
        left = sum(own.message.beside_server for own in compress(devices, present))
        server = replace(self.facts.server, devices_here=left)
        facts = replace(self.facts, devices=devices, server=server)
        new = replace(self, facts=facts, present=tuple(present))
        cuts = [ranking[0].cut for ranking in new._here(self.rankings)]
        stay = predict(new._here(devices), new.facts.server, new.facts.sizes, cuts)
        return replace(new, rankings=new._everyone([[candidate] for candidate in stay]))

    def again(self) -> list[Sequence[Candidate]]:
        """The rankings with what is known now; devices that have left do what they did."""
        facts = replace(self.facts, devices=self._here(self.facts.devices))
        return self._everyone(_choose(self.plan, facts))

    def with_choice(self, rankings: Sequence[Sequence[Candidate]]) -> "Selection":
        """The selection in which the first of each ranking is chosen."""
        plan = self.plan.recut([ranking[0].cut for ranking in rankings])
        return replace(self, plan=plan, rankings=rankings)

    def keep(self, cuts: Sequence[tuple[int, int]]) -> "Selection":
        """The selection in which these P and N are chosen, a pair for each device, if its memory allows."""
        facts, kept = self.facts, list[tuple[int, int]]()
        for device, job, cut, ranking in zip(
            facts.devices, self.plan.devices, cuts, self.rankings, strict=True
        ):
            needs = (facts.sizes, device.batch_size, device.memory_bytes, device.tail_units)
            fits = fitting(*needs)[cut[0] - 1]
            kept.append(cut if fits else ranking[0].cut)
            log.info(
                "selector: %s goes on with P=%d N=%d%s",
                *(job.name, *kept[-1]),
                "" if fits else f": P={cut[0]} does not fit into node.memory_limit",
            )
        chosen = predict(facts.devices, facts.server, facts.sizes, kept)
        return self.with_choice([[candidate] for candidate in chosen])

    @property
    def predicted_s(self) -> float:
        """Real seconds of an iteration, as `EpochMetrics.iteration_time_s`: mean over the devices."""
        server, sizes = self.facts.server, self.facts.sizes
        chosen = [
            mean_iteration_s(device, server, sizes, self._halves, ranking[0])
            for device, ranking in zip(self._here(self.facts.devices), self._here(self.rankings), strict=True)
        ]
        return sum(chosen) / len(chosen)

    @property
    def _halves(self) -> int:
        """How many devices use the server."""
        return sum(ranking[0].split_point < len(self.facts.sizes) for ranking in self._here(self.rankings))

    @property
    def link_mbps(self) -> dict[str, tuple[float | None, ...]]:
        """Columns of the results: with which rates the links of each device were reckoned."""
        scale = self.plan.settings.time_scale
        known = [*zip(self.facts.devices, self.present, strict=True)]
        return {
            "link_uplink_mbps": tuple(own.uplink_mbps / scale if here else None for own, here in known),
            "link_downlink_mbps": tuple(own.downlink_mbps / scale if here else None for own, here in known),
        }

    def _here(self, each: Sequence[T]) -> list[T]:
        """Of those who take part."""
        return list(compress(each, self.present))

    def _everyone(self, here: Sequence[Sequence[Candidate]]) -> list[Sequence[Candidate]]:
        """Rankings of those who take part, and what the others did."""
        own = iter(here)
        return [next(own) if there else old for there, old in zip(self.present, self.rankings, strict=True)]

    def write(self, path: Path) -> None:
        """A CSV file with the best N for each split point of each device; seconds as in the results."""
        facts, scale = self.facts, self.plan.settings.time_scale
        method, stages = self.plan.selector.method, _stages_of(self.plan)
        found = best_of_each(facts.devices, facts.server, facts.sizes, method, self._halves)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(
            ["device", "split_point", "num_micro_batches", "iteration_s", "models_s", *stages.values()]
        )
        for number, candidates in enumerate(found, start=1):
            for own in candidates:
                seconds = [own.iteration_s, own.moving_s, *_seconds(own, stages)]
                cells = [f"{value * scale:.6g}" for value in seconds]
                writer.writerow([number, own.split_point, own.num_micro_batches, *cells])
        write_whole(path, lambda file: file.write(text.getvalue().encode()))

    def write_facts(self, path: Path) -> None:
        """A YAML file with the facts; seconds and rates as in the results."""
        write_facts(path, self.facts.scaled(self.plan.settings.time_scale))

    def text(self) -> str:
        """The best candidates of each device as a table; devices with the same ones share it."""
        groups: dict[str, list[str]] = {}
        scale, stages = self.plan.settings.time_scale, _stages_of(self.plan)
        for device, ranking in zip(self.plan.devices, self.rankings, strict=True):
            lines = _ranking(ranking, len(self.plan.network.units), scale, stages)
            groups.setdefault("\n".join(lines), []).append(device.name)
        legend = (
            "predicted; seconds: iteration and models are for each iteration, stages for each micro-batch:\n"
            + ", ".join(name.replace("_", " ") for name in stages.values())
        )
        return "\n\n".join(f"{', '.join(names)}:\n{lines}" for lines, names in groups.items()) + f"\n{legend}"


def select(plan: Plan, node: Node, elapsed_s: float = 0.0) -> Selection:
    """Measures devices, links and server, and chooses.

    Args:
        plan: plan of the job.
        node: this machine.
        elapsed_s: real seconds at which bandwidth traces go on.

    Raises:
        UserError: no split point fits into a device's memory, or its data is missing.
        PeerError: a device failed or did not answer in time.
    """
    config = plan.selector
    runs, num_units = config.profile_iterations, len(plan.network.units)
    whole = plan.recut([(num_units, 1)] * len(plan.devices))
    spec = plan.devices[0].model
    codec = build_model_codec(plan.devices[0].model_codec, "compression.models")
    unit = unit_sizes(spec, codec, plan.settings.optimizer_copies)
    largest = max(device.batch_size for device in plan.devices)
    sizes = sizes_to_time(largest, plan.network.smallest)
    private = any(device.speed.private for device in plan.devices)
    server = profile_server(spec, sizes, runs, node.device, len(plan.devices), private)
    every = plan.settings.aggregation_every
    crossing = crossings(plan.devices, plan.network.units, runs, node.device)
    measured = (whole.devices, unit, runs, every, elapsed_s, server, node.device, crossing)
    devices, server = profile_devices(*measured)
    facts = Facts(devices, server, unit)
    rankings = _choose(plan, facts)
    chosen = plan.recut([ranking[0].cut for ranking in rankings])
    selection = Selection(chosen, rankings, facts, (True,) * len(devices))
    together = ", ".join(f"{share:.2f} with {size} samples" for size, share in server.halves_at_once.items())
    log.info("selector: halves that the server computes at a time: %s", together)
    log.info(
        "selector: a micro-batch takes %.1f ms besides computing, with all devices at once %.1f ms",
        1000 * server.message_s,
        1000 * max(server.message_s, server.shared_message_s * len(devices)),
    )
    _tell_cores(devices, server)
    log.info("selector: the best P and N of\n%s", selection.text())
    return selection


def _tell_cores(devices: Sequence[DeviceFacts], server: ServerFacts) -> None:
    own = devices[0].message
    log.info(
        "selector: of CPU it takes %.1f ms on the server and %.1f ms on device1, where sending keeps the "
        "computing thread for %.2f ms; %d devices share the server's %g cores",
        *(1000 * server.message_cpu_s, 1000 * own.cpu_s, 1000 * own.submit_s),
        *(server.devices_here, server.cores),
    )


def _choose(plan: Plan, facts: Facts) -> list[list[Candidate]]:
    config = plan.selector
    try:
        return choose(facts.devices, facts.server, facts.sizes, config.method, config.split_points, SHOWN)
    except ValueError as error:
        raise UserError(f"node.memory_limit: {error}") from error


def _stages_of(plan: Plan) -> Mapping[str, str]:
    """The stages of a micro-batch by their symbols."""
    return U_STAGES if plan.devices[0].labels_stay else STAGES


def _seconds(candidate: Candidate, stages: Mapping[str, str]) -> list[float]:
    return [float(getattr(candidate.stages, name)) for name in stages.values()]


def _ranking(
    ranking: Sequence[Candidate], num_units: int, time_scale: float, stages: Mapping[str, str]
) -> list[str]:
    rows = []
    for candidate in ranking:
        seconds = [candidate.iteration_s, candidate.moving_s, *_seconds(candidate, stages)]
        alone = "(alone)" if candidate.split_point == num_units else ""
        cells = [f"{value * time_scale:.4f}" for value in seconds]
        rows.append([f"{alone} {candidate.split_point}", str(candidate.num_micro_batches), *cells])
    return table(["P", "N", "iteration", "models", *stages], rows)
